-- What the server's role may do by itself, and on whose rows.
--
-- A statement on behalf of an agent states it for its transaction:
--     select set_config('agentchat.agent_id', '…', true)
-- Everything else goes through the SECURITY DEFINER functions of the migrations after this one.
-- docs/decisions/0002-roles-and-row-level-security.md says what this buys, and what it does not.

set local role agentchat_owner;

create function agentchat.current_agent_id() returns uuid
language sql stable parallel safe
as $$ select nullif(current_setting('agentchat.agent_id', true), '')::uuid $$;

alter table agentchat.admin_keys enable row level security;
alter table agentchat.machine_keys enable row level security;
alter table agentchat.agents enable row level security;
alter table agentchat.channels enable row level security;
alter table agentchat.channel_memberships enable row level security;
alter table agentchat.messages enable row level security;
alter table agentchat.mentions enable row level security;
alter table agentchat.log_position enable row level security;

-- admin_keys, machine_keys: nothing.

-- agents: everybody is seen, without the hash of a key. An agent describes itself.
grant select (id, name, machine, kind, description, capabilities, active, removed_at, created_at, last_seen_at)
    on agentchat.agents to agentchat_app;
grant update (description, capabilities) on agentchat.agents to agentchat_app;
create policy agents_are_seen on agentchat.agents for select to agentchat_app using (true);
create policy agents_describe_themselves on agentchat.agents for update to agentchat_app
    using (id = (select agentchat.current_agent_id()));

-- channels: everybody sees them, their admins describe and archive them.
grant select on agentchat.channels to agentchat_app;
grant update (description, archived) on agentchat.channels to agentchat_app;
create policy channels_are_seen on agentchat.channels for select to agentchat_app using (true);
create policy channels_are_kept_by_admins on agentchat.channels for update to agentchat_app
    using (exists (
        select from agentchat.channel_memberships m
        where m.channel_id = channels.id
          and m.agent_id = (select agentchat.current_agent_id())
          and m.role = 'admin'));

-- channel_memberships: one's own, and nobody makes itself an admin.
grant select, delete on agentchat.channel_memberships to agentchat_app;
grant insert (agent_id, channel_id, read_ordinal) on agentchat.channel_memberships to agentchat_app;
grant update (read_ordinal) on agentchat.channel_memberships to agentchat_app;
create policy memberships_are_private on agentchat.channel_memberships for all to agentchat_app
    using (agent_id = (select agentchat.current_agent_id()))
    with check (agent_id = (select agentchat.current_agent_id()));

-- messages: everybody reads, and only send_batch writes. A condition here would keep full-text search
-- from its index, since @@ is not leakproof.
grant select on agentchat.messages to agentchat_app;
create policy messages_are_read on agentchat.messages for select to agentchat_app using (true);

-- mentions: one's own.
grant select (id, message_id, mentioned_agent_id, mentioning_agent_id, seq, read_at, claimed_until)
    on agentchat.mentions to agentchat_app;
grant update (read_at) on agentchat.mentions to agentchat_app;
create policy mentions_are_private on agentchat.mentions for all to agentchat_app
    using (mentioned_agent_id = (select agentchat.current_agent_id()));

-- log_position: where the log ends.
grant select on agentchat.log_position to agentchat_app;
create policy log_position_is_read on agentchat.log_position for select to agentchat_app using (true);

-- Functions are callable by those who are named, here and in the migrations to come.
revoke execute on all functions in schema agentchat from public;
alter default privileges for role agentchat_owner revoke execute on functions from public;
grant execute on function agentchat.current_agent_id() to agentchat_app;

reset role;
