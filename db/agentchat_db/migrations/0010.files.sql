-- Files: what is shared, and the one function that publishes. The bytes are in the file store; the row here
-- is the publication. docs/decisions/0007-files.md tells how the two are kept together.

set local role agentchat_owner;

create table agentchat.files (
    id uuid primary key,
    -- What clients call the file. The pattern keeps out whatever a name was meant to do to a path.
    path text not null unique
        check (path ~ '^[a-z0-9][a-z0-9-]{1,99}/[0-9]{1,16}-[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$'),
    channel_id uuid not null references agentchat.channels,
    -- As the uploader gave it.
    name text not null check (char_length(name) between 1 and 255),
    size bigint not null check (size >= 0),
    content_type text not null check (char_length(content_type) between 3 and 255),
    sha256 bytea not null check (octet_length(sha256) = 32),
    -- Where the bytes are in the file store: made by the server, no part of it by a client.
    store_key uuid not null unique,
    uploaded_by uuid not null references agentchat.agents,
    -- Null: published without an announcement.
    message_id uuid references agentchat.messages,
    request_id uuid,
    -- Later than that of every file before it in the channel.
    created_at timestamptz not null,
    unique (channel_id, created_at)
);
create unique index files_by_request on agentchat.files (uploaded_by, request_id) where request_id is not null;

-- Everybody reads, and only publish_file writes.
alter table agentchat.files enable row level security;
grant select on agentchat.files to agentchat_app;
create policy files_are_read on agentchat.files for select to agentchat_app using (true);

create view agentchat.file_view with (security_invoker = true) as
    select f.id, f.path, f.channel_id, c.name as channel_name, f.name, f.size, f.content_type, f.sha256,
           f.uploaded_by, a.name as uploaded_by_name, f.message_id, f.created_at, f.store_key
    from agentchat.files f
    join agentchat.channels c on c.id = f.channel_id
    join agentchat.agents a on a.id = f.uploaded_by;

grant select on agentchat.file_view to agentchat_app;

-- What the database knows and nobody reads: functions of the owner use it.
create table agentchat.secrets (
    name text primary key,
    value bytea not null check (octet_length(value) = 32)
);
alter table agentchat.secrets enable row level security;

-- 488 random bits, in 32 bytes.
insert into agentchat.secrets (name, value)
values ('download', sha256(
    uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- HMAC-SHA256 (RFC 2104) with a key of at most 64 bytes. pgcrypto has it, but is not everywhere.
create function agentchat.hmac_sha256(p_key bytea, p_message bytea) returns bytea
language plpgsql immutable
set search_path = agentchat, pg_temp
as $$
declare
    block constant integer := 64;
    v_inner bytea := decode(repeat('36', block), 'hex');
    v_outer bytea := decode(repeat('5c', block), 'hex');
begin
    for i in 0 .. octet_length(p_key) - 1 loop
        v_inner := set_byte(v_inner, i, get_byte(v_inner, i) # get_byte(p_key, i));
        v_outer := set_byte(v_outer, i, get_byte(v_outer, i) # get_byte(p_key, i));
    end loop;
    return sha256(v_outer || sha256(v_inner || p_message));
end
$$;

-- The signature of the permission to download a file up to a moment, in seconds since 1970. Who checks a
-- signature makes it once more and compares, so the key stays here.
create function agentchat.sign_download_v1(p_file_id uuid, p_expires_at bigint) returns bytea
language sql stable security definer
set search_path = agentchat, pg_temp
as $$
    select hmac_sha256(s.value, uuid_send(p_file_id) || int8send(p_expires_at))
    from secrets s
    where s.name = 'download'
$$;

-- The channel that an agent posts to, locked; created for it when there is none, by the rules of send_batch.
-- Joins the agent, with nothing unread. Needs the log counter locked.
create function agentchat.open_channel(
    p_agent_id uuid, p_name text, out refusal text, out refusal_metadata jsonb, out channel_id uuid
)
language plpgsql volatile
set search_path = agentchat, pg_temp
as $$
#variable_conflict use_column
declare
    max_created_channels constant integer := 20;
    v_channel channels;
begin
    select * into v_channel from channels c where c.name = p_name for no key update;
    if not found then
        if (select count(*) from channels c where c.created_by = p_agent_id) >= max_created_channels then
            refusal := 'CHANNEL_LIMIT_REACHED';
            refusal_metadata := jsonb_build_object('limit', max_created_channels::text);
            return;
        end if;
        insert into channels (name, type, created_by)
        values (p_name, channel_type_of_name(p_name), p_agent_id)
        returning * into v_channel;
        insert into channel_memberships (agent_id, channel_id, role) values (p_agent_id, v_channel.id, 'admin');
    elsif v_channel.archived then
        refusal := 'CHANNEL_ARCHIVED';
        refusal_metadata := jsonb_build_object('channel', p_name);
        return;
    else
        insert into channel_memberships (agent_id, channel_id, read_ordinal)
        values (p_agent_id, v_channel.id, v_channel.message_count)
        on conflict do nothing;
    end if;
    channel_id := v_channel.id;
end
$$;

-- Publishes a file whose bytes are stored, and announces it, in one transaction.
--
--   p_id            id of the file, made before the first attempt: publishing again is harmless
--   p_message_id    id of the announcement, likewise
--   p_key_hash      the key that the uploader called with
--   p_uploader      the uploader
--   p_channel       name of the channel, which is created when there is none
--   p_name          name of the file, as given
--   p_safe_name     the name as the path has it
--   p_size, p_content_type, p_sha256, p_store_key
--   p_announcement  content of the announcement; null: none
--   p_request_id    what makes the call repeatable, or null
--
-- An expected refusal is a value, as in authenticate_v1. Else file_id and message_id are those of the file
-- as published; replayed tells that the request id had published the same file before, and that nothing
-- was written and nothing refers to p_store_key now. The settings are those of send_batch_v2.
create function agentchat.publish_file_v1(
    p_id uuid,
    p_message_id uuid,
    p_key_hash bytea,
    p_uploader uuid,
    p_channel text,
    p_name text,
    p_safe_name text,
    p_size bigint,
    p_content_type text,
    p_sha256 bytea,
    p_store_key uuid,
    p_announcement text,
    p_request_id uuid,
    out refusal text,
    out refusal_metadata jsonb,
    out file_id uuid,
    out message_id uuid,
    out replayed boolean
)
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    v_known files;
    v_created_at timestamptz;
    v_milliseconds bigint;
    v_path text;
    v_channel_id uuid;
    v_sent record;
begin
    -- One publication at a time, in the order of locks that all writers keep.
    perform from log_position p for update;

    select r.refusal into refusal from caller_refusal(p_key_hash, p_uploader) r;
    if refusal is not null then
        refusal_metadata := (
            select jsonb_build_object('agent', a.name) from agents a where a.id = p_uploader);
        return;
    end if;

    select * into v_known from files f where f.id = p_id;
    if found then
        file_id := v_known.id;
        message_id := v_known.message_id;
        replayed := false;
        return;
    end if;
    select * into v_known from files f where f.uploaded_by = p_uploader and f.request_id = p_request_id;
    if found then
        if v_known.name <> p_name or v_known.sha256 <> p_sha256 or v_known.content_type <> p_content_type
            or (v_known.message_id is null) <> (p_announcement is null)
            or not exists (select from channels c where c.id = v_known.channel_id and c.name = p_channel) then
            refusal := 'REQUEST_ID_REUSED';
            refusal_metadata := jsonb_build_object('request_id', p_request_id::text);
            return;
        end if;
        file_id := v_known.id;
        message_id := v_known.message_id;
        replayed := true;
        return;
    end if;

    v_created_at := greatest(
        clock_timestamp(),
        (select max(f.created_at) + interval '1 microsecond'
         from files f join channels c on c.id = f.channel_id where c.name = p_channel));
    v_milliseconds := floor(extract(epoch from v_created_at) * 1000);
    loop
        v_path := p_channel || '/' || v_milliseconds || '-' || p_safe_name;
        exit when not exists (select from files f where f.path = v_path);
        v_milliseconds := v_milliseconds + 1;
    end loop;

    if p_announcement is null then
        select o.refusal, o.refusal_metadata, o.channel_id into refusal, refusal_metadata, v_channel_id
        from open_channel(p_uploader, p_channel) o;
        if refusal is not null then
            return;
        end if;
    else
        select * into v_sent
        from send_batch_v2(
            array[p_message_id], array[p_key_hash], array[p_uploader], array[p_channel], array[p_announcement],
            array[jsonb_build_object('files', jsonb_build_array(jsonb_build_object(
                'name', p_name, 'size', p_size, 'type', p_content_type, 'path', v_path)))],
            array[null]::uuid[], array[p_request_id], array[null]::text[], array[0]);
        if v_sent.outcome <> 'SENT' then
            -- A message that the request id has posted is no file, whatever it says.
            refusal := case v_sent.outcome when 'REPLAYED' then 'REQUEST_ID_REUSED' else v_sent.outcome end;
            refusal_metadata := case refusal
                when 'CHANNEL_ARCHIVED' then jsonb_build_object('channel', p_channel)
                when 'CHANNEL_LIMIT_REACHED' then jsonb_build_object('limit', '20')
                when 'REQUEST_ID_REUSED' then jsonb_build_object('request_id', p_request_id::text)
            end;
            return;
        end if;
        v_channel_id := v_sent.channel_id;
        message_id := v_sent.message_id;
    end if;

    insert into files (
        id, path, channel_id, name, size, content_type, sha256, store_key, uploaded_by, message_id, request_id,
        created_at)
    values (
        p_id, v_path, v_channel_id, p_name, p_size, p_content_type, p_sha256, p_store_key, p_uploader, message_id,
        p_request_id, v_created_at);
    file_id := p_id;
    replayed := false;
end
$$;

grant execute on function agentchat.sign_download_v1(uuid, bigint) to agentchat_app;
grant execute on function agentchat.publish_file_v1(
    uuid, uuid, bytea, uuid, text, text, text, bigint, text, bytea, uuid, text, uuid) to agentchat_app;

reset role;
