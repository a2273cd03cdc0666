-- The tables. docs/decisions/0001-the-log-counter.md explains log_position, seq and ordinal.

set local role agentchat_owner;

-- Names of machines, agents and channels.
create domain agentchat.name as text
    check (value ~ '^[a-z0-9][a-z0-9-]{1,99}$');

-- SHA-256 of a key. The keys themselves are never stored.
create domain agentchat.key_hash as bytea
    check (octet_length(value) = 32);

create type agentchat.agent_kind as enum ('agent', 'human');
create type agentchat.channel_type as enum ('global', 'project', 'technology', 'environment');
create type agentchat.membership_role as enum ('member', 'admin');

-- A UUID of version 7: milliseconds since 1970, then random. (uuidv7() came with PostgreSQL 18.)
create function agentchat.new_uuid() returns uuid
language sql volatile parallel safe
as $$
    select encode(
        set_bit(set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

create table agentchat.admin_keys (
    id uuid primary key default agentchat.new_uuid(),
    key_hash agentchat.key_hash not null unique,
    active boolean not null default true,
    created_at timestamptz not null default clock_timestamp(),
    last_used_at timestamptz
);

create table agentchat.machine_keys (
    id uuid primary key default agentchat.new_uuid(),
    machine agentchat.name not null,
    key_hash agentchat.key_hash not null unique,
    active boolean not null default true,
    created_at timestamptz not null default clock_timestamp(),
    last_used_at timestamptz,
    expires_at timestamptz
);
create index machine_keys_by_machine on agentchat.machine_keys (machine, created_at desc, id);

create table agentchat.agents (
    id uuid primary key default agentchat.new_uuid(),
    name agentchat.name not null unique,
    -- The machine whose keys speak for the agent; null when it has a key of its own.
    machine agentchat.name,
    key_hash agentchat.key_hash unique,
    kind agentchat.agent_kind not null default 'agent',
    description text not null default '' check (char_length(description) <= 500),
    capabilities text[] not null default '{}' check (cardinality(capabilities) <= 32),
    active boolean not null default true,
    -- Set while the agent is removed: the row stays for the sake of its messages and its name.
    removed_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz,
    check (machine is null or key_hash is null)
);
create index agents_by_machine on agentchat.agents (machine);

create table agentchat.channels (
    id uuid primary key default agentchat.new_uuid(),
    name agentchat.name not null unique,
    type agentchat.channel_type not null,
    description text not null default '' check (char_length(description) <= 500),
    created_by uuid references agentchat.agents,
    archived boolean not null default false check (not (archived and name = 'direct-messages')),
    created_at timestamptz not null default clock_timestamp(),
    message_count bigint not null default 0,
    -- seq of the newest message, 0 before the first.
    last_seq bigint not null default 0
);
create index channels_by_creator on agentchat.channels (created_by);

create table agentchat.channel_memberships (
    agent_id uuid not null references agentchat.agents,
    channel_id uuid not null references agentchat.channels,
    role agentchat.membership_role not null default 'member',
    joined_at timestamptz not null default clock_timestamp(),
    -- Everything up to this ordinal is read: unread = channels.message_count - read_ordinal.
    read_ordinal bigint not null default 0 check (read_ordinal >= 0),
    primary key (agent_id, channel_id)
);

create table agentchat.messages (
    id uuid primary key,
    seq bigint not null unique,
    channel_id uuid not null references agentchat.channels,
    ordinal bigint not null,
    author_agent_id uuid not null references agentchat.agents,
    -- What the author wrote, 1 to 32,000 characters, and before it, in a direct message, the target.
    content text not null check (char_length(content) between 1 and 32000 + 102),
    metadata jsonb check (jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 8192),
    parent_message_id uuid references agentchat.messages,
    hops integer not null default 0 check (hops >= 0),
    request_id uuid,
    created_at timestamptz not null,
    content_tsv tsvector not null generated always as (to_tsvector('english'::regconfig, content)) stored,
    unique (channel_id, ordinal)
);
create unique index messages_by_request on agentchat.messages (author_agent_id, request_id)
    where request_id is not null;
create index messages_by_parent on agentchat.messages (parent_message_id, seq)
    where parent_message_id is not null;
create index messages_by_word on agentchat.messages using gin (content_tsv);

create table agentchat.mentions (
    id uuid primary key default agentchat.new_uuid(),
    message_id uuid not null references agentchat.messages,
    mentioned_agent_id uuid not null references agentchat.agents,
    mentioning_agent_id uuid not null references agentchat.agents,
    -- seq of the message.
    seq bigint not null,
    read_at timestamptz,
    claim_token uuid,
    claimed_until timestamptz,
    unique (mentioned_agent_id, seq)
);
create index mentions_unread on agentchat.mentions (mentioned_agent_id, seq) where read_at is null;
create index mentions_by_seq on agentchat.mentions (seq);

-- The one row that orders the board: locked and advanced by every transaction that posts.
create table agentchat.log_position (
    only_row boolean primary key default true check (only_row),
    -- Tells this log from any other. A cursor is valid in its own log only.
    log_id uuid not null default gen_random_uuid(),
    seq bigint not null default 0,
    last_created_at timestamptz not null default '-infinity'
);
insert into agentchat.log_position default values;

reset role;
