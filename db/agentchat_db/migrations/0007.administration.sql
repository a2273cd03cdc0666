-- Running the board. Every function that the server may call checks the admin key itself, so that no
-- path through the server gets around it.
--
-- A refusal raises SQLSTATE AGCHT, with the name of an ErrorReason of the API as its message and the
-- reason's metadata, a JSON object of strings, as its detail. The transaction is then undone.

set local role agentchat_owner;

create function agentchat.refuse(p_reason text, p_metadata jsonb default '{}') returns void
language plpgsql immutable
set search_path = agentchat, pg_temp
as $$
begin
    raise exception using errcode = 'AGCHT', message = p_reason, detail = p_metadata::text;
end
$$;

create function agentchat.require_admin(p_admin_key_hash bytea) returns void
language plpgsql volatile
set search_path = agentchat, pg_temp
as $$
begin
    if not exists (select from admin_keys k where k.key_hash = p_admin_key_hash and k.active) then
        perform refuse('ADMIN_KEY_INVALID');
    end if;
    update admin_keys k set last_used_at = clock_timestamp()
    where k.key_hash = p_admin_key_hash
      and (k.last_used_at is null or k.last_used_at < clock_timestamp() - interval '30 seconds');
end
$$;

-- Tells every worker that keys or agents have changed, so that it forgets what it has cached and looks
-- at its open streams.
create function agentchat.identities_changed() returns void
language sql volatile
set search_path = agentchat, pg_temp
as $$ select pg_notify('agentchat_identities', '') $$;

-- Adds an admin key. Not for the server: needs access to the database as its owner.
create function agentchat.create_admin_key_v1(p_key_hash bytea) returns uuid
language sql volatile
set search_path = agentchat, pg_temp
as $$ insert into admin_keys (key_hash) values (p_key_hash) returning id $$;

-- Whether an admin key is good.
create function agentchat.authenticate_admin_v1(p_admin_key_hash bytea) returns void
language sql volatile security definer
set search_path = agentchat, pg_temp
as $$ select require_admin(p_admin_key_hash) $$;

-- What the API tells of a machine key.
create type agentchat.machine_key_view as (
    id uuid, machine text, active boolean, created_at timestamptz, last_used_at timestamptz, expires_at timestamptz
);

create function agentchat.create_machine_key_v1(
    p_admin_key_hash bytea, p_machine text, p_key_hash bytea, p_expires_at timestamptz
) returns agentchat.machine_key_view
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_view machine_key_view;
begin
    perform require_admin(p_admin_key_hash);
    insert into machine_keys (machine, key_hash, expires_at) values (p_machine, p_key_hash, p_expires_at)
    returning id, machine, active, created_at, last_used_at, expires_at into v_view;
    return v_view;
end
$$;

-- Makes a new key, and lets the present ones expire after the grace period (or when they would anyway).
create function agentchat.rotate_machine_key_v1(
    p_admin_key_hash bytea, p_machine text, p_key_hash bytea, p_grace interval,
    out machine_key agentchat.machine_key_view, out old_keys_expire_at timestamptz
)
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
begin
    perform require_admin(p_admin_key_hash);
    old_keys_expire_at := clock_timestamp() + p_grace;
    update machine_keys k
    set expires_at = least(k.expires_at, old_keys_expire_at)
    where k.machine = p_machine and k.active and (k.expires_at is null or k.expires_at > clock_timestamp());
    if not found then
        perform refuse('MACHINE_NOT_FOUND', jsonb_build_object('machine', p_machine));
    end if;
    insert into machine_keys as k (machine, key_hash) values (p_machine, p_key_hash)
    returning k.id, k.machine, k.active, k.created_at, k.last_used_at, k.expires_at into machine_key;
    perform identities_changed();
end
$$;

-- Revokes one key, or, without an id, all keys of a machine. Returns how many it revoked.
create function agentchat.revoke_machine_key_v1(p_admin_key_hash bytea, p_key_id uuid, p_machine text)
returns integer
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_count integer;
begin
    perform require_admin(p_admin_key_hash);
    if p_key_id is not null then
        if not exists (select from machine_keys k where k.id = p_key_id) then
            perform refuse('MACHINE_KEY_NOT_FOUND', jsonb_build_object('key_id', p_key_id::text));
        end if;
    elsif not exists (select from machine_keys k where k.machine = p_machine) then
        perform refuse('MACHINE_NOT_FOUND', jsonb_build_object('machine', p_machine));
    end if;
    update machine_keys k set active = false
    where k.active and (k.id = p_key_id or p_key_id is null and k.machine = p_machine);
    get diagnostics v_count = row_count;
    perform identities_changed();
    return v_count;
end
$$;

-- A page of the keys, by machine, newest first. The page starts after the key p_after_id.
create function agentchat.list_machine_keys_v1(p_admin_key_hash bytea, p_after_id uuid, p_limit integer)
returns setof agentchat.machine_key_view
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_after machine_keys;
begin
    perform require_admin(p_admin_key_hash);
    select * into v_after from machine_keys k where k.id = p_after_id;
    return query
    select k.id, k.machine::text, k.active, k.created_at, k.last_used_at, k.expires_at
    from machine_keys k
    where p_after_id is null
       or k.machine > v_after.machine
       or k.machine = v_after.machine and (k.created_at, k.id) < (v_after.created_at, v_after.id)
    order by k.machine, k.created_at desc, k.id desc
    limit p_limit;
end
$$;

-- Gives an agent, made when there is none, a key of its own in place of the one it had.
create function agentchat.create_agent_key_v1(p_admin_key_hash bytea, p_name text, p_key_hash bytea)
returns uuid
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_agent agents;
begin
    perform require_admin(p_admin_key_hash);
    perform pg_advisory_xact_lock(hashtextextended('agentchat.register', 0));
    select * into v_agent from agents a where a.name = p_name for no key update;
    if not found then
        insert into agents (name, key_hash) values (p_name, p_key_hash) returning * into v_agent;
        perform join_first_channels(v_agent.id);
    elsif v_agent.machine is not null then
        perform refuse('AGENT_NAME_TAKEN', jsonb_build_object('agent', p_name));
    else
        if v_agent.removed_at is not null then
            perform join_first_channels(v_agent.id);
        end if;
        update agents a set key_hash = p_key_hash, removed_at = null, active = true where a.id = v_agent.id;
        perform identities_changed();
    end if;
    return v_agent.id;
end
$$;

create function agentchat.set_agent_active_v1(p_admin_key_hash bytea, p_name text, p_active boolean)
returns uuid
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_id uuid;
begin
    perform require_admin(p_admin_key_hash);
    update agents a set active = p_active where a.name = p_name and a.removed_at is null returning a.id into v_id;
    if not found then
        perform refuse('AGENT_NOT_FOUND', jsonb_build_object('agent', p_name));
    end if;
    perform identities_changed();
    return v_id;
end
$$;

create function agentchat.remove_agent_v1(p_admin_key_hash bytea, p_name text) returns void
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_id uuid;
begin
    perform require_admin(p_admin_key_hash);
    -- With the counter locked no batch is under way that would join or mention the agent again.
    perform from log_position for update;
    update agents a set removed_at = clock_timestamp(), active = false, key_hash = null
    where a.name = p_name and a.removed_at is null returning a.id into v_id;
    if not found then
        perform refuse('AGENT_NOT_FOUND', jsonb_build_object('agent', p_name));
    end if;
    delete from channel_memberships m where m.agent_id = v_id;
    delete from mentions m where m.mentioned_agent_id = v_id;
    perform identities_changed();
end
$$;

create function agentchat.set_channel_archived_v1(p_admin_key_hash bytea, p_name text, p_archived boolean)
returns uuid
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_id uuid;
begin
    perform require_admin(p_admin_key_hash);
    if p_archived and p_name = 'direct-messages' then
        perform refuse('CHANNEL_NOT_ARCHIVABLE', jsonb_build_object('channel', p_name));
    end if;
    update channels c set archived = p_archived where c.name = p_name returning c.id into v_id;
    if not found then
        perform refuse('CHANNEL_NOT_FOUND', jsonb_build_object('channel', p_name));
    end if;
    return v_id;
end
$$;

grant execute on function agentchat.authenticate_admin_v1(bytea) to agentchat_app;
grant execute on function agentchat.create_machine_key_v1(bytea, text, bytea, timestamptz) to agentchat_app;
grant execute on function agentchat.rotate_machine_key_v1(bytea, text, bytea, interval) to agentchat_app;
grant execute on function agentchat.revoke_machine_key_v1(bytea, uuid, text) to agentchat_app;
grant execute on function agentchat.list_machine_keys_v1(bytea, uuid, integer) to agentchat_app;
grant execute on function agentchat.create_agent_key_v1(bytea, text, bytea) to agentchat_app;
grant execute on function agentchat.set_agent_active_v1(bytea, text, boolean) to agentchat_app;
grant execute on function agentchat.remove_agent_v1(bytea, text) to agentchat_app;
grant execute on function agentchat.set_channel_archived_v1(bytea, text, boolean) to agentchat_app;

reset role;
