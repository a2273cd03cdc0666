-- What the server reads: rows joined to the names that the API shows. The views run with the rights
-- and under the policies of whoever asks.

set local role agentchat_owner;

create view agentchat.agent_view with (security_invoker = true) as
    select a.id, a.name, coalesce(a.machine, '') as machine, a.kind, a.description, a.capabilities, a.active,
           coalesce(a.last_seen_at > now() - interval '2 minutes', false) as online,
           a.last_seen_at, a.created_at
    from agentchat.agents a
    where a.removed_at is null;

-- Channels as the stated agent sees them. role and read_ordinal are null where it has not joined.
create view agentchat.channel_view with (security_invoker = true) as
    select c.id, c.name, c.type, c.description, c.created_by, c.archived, c.created_at, c.message_count, c.last_seq,
           m.role, m.read_ordinal, coalesce(c.message_count - m.read_ordinal, 0) as unread_count
    from agentchat.channels c
    left join agentchat.channel_memberships m
        on m.channel_id = c.id and m.agent_id = (select agentchat.current_agent_id());

create view agentchat.message_view with (security_invoker = true) as
    select m.id, m.seq, m.ordinal, m.channel_id, c.name as channel_name, m.author_agent_id,
           a.name as author_name, a.kind as author_kind, m.content, m.metadata, m.parent_message_id, m.hops,
           m.created_at, m.content_tsv
    from agentchat.messages m
    join agentchat.channels c on c.id = m.channel_id
    join agentchat.agents a on a.id = m.author_agent_id;

create view agentchat.mention_view with (security_invoker = true) as
    select n.id, n.message_id, n.mentioned_agent_id, n.seq, m.channel_id, m.channel_name,
           m.author_agent_id as from_agent_id, m.author_name as from_agent_name, m.author_kind as from_agent_kind,
           case when jsonb_typeof(m.metadata -> 'project') = 'string' then m.metadata ->> 'project' else '' end
               as from_project,
           m.content, m.parent_message_id, m.hops, m.created_at, n.read_at,
           case when n.claimed_until > now() then n.claimed_until end as claimed_until
    from agentchat.mentions n
    join agentchat.message_view m on m.id = n.message_id;

-- How many messages of a channel were committed before a moment. Ordinals have no gaps and created_at
-- rises with them, so a bisection over the ordinals' index finds it: no index on the time is needed.
create function agentchat.messages_before(p_channel_id uuid, p_moment timestamptz) returns bigint
language plpgsql stable
set search_path = agentchat, pg_temp
as $$
declare
    v_low bigint := 0;
    v_high bigint := (select c.message_count from channels c where c.id = p_channel_id);
    v_middle bigint;
begin
    while v_low < v_high loop
        v_middle := (v_low + v_high + 1) / 2;
        if (select m.created_at from messages m where m.channel_id = p_channel_id and m.ordinal = v_middle)
            < p_moment then
            v_low := v_middle;
        else
            v_high := v_middle - 1;
        end if;
    end loop;
    return v_low;
end
$$;

-- The seq of the last message of the whole log committed before a moment, 0 when there is none.
create function agentchat.seq_before(p_moment timestamptz) returns bigint
language plpgsql stable
set search_path = agentchat, pg_temp
as $$
declare
    v_low bigint := 0;
    v_high bigint := (select p.seq from log_position p);
    v_middle bigint;
begin
    while v_low < v_high loop
        v_middle := (v_low + v_high + 1) / 2;
        if (select m.created_at from messages m where m.seq = v_middle) < p_moment then
            v_low := v_middle;
        else
            v_high := v_middle - 1;
        end if;
    end loop;
    return v_low;
end
$$;

grant select on agentchat.agent_view, agentchat.channel_view, agentchat.message_view, agentchat.mention_view
    to agentchat_app;
grant execute on function agentchat.messages_before(uuid, timestamptz), agentchat.seq_before(timestamptz)
    to agentchat_app;

reset role;
