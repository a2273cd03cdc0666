-- name: get_channel
select * from agentchat.channel_view where name = %(channel)s;

-- name: get_channel_by_id
select * from agentchat.channel_view where id = %(channel_id)s;

-- name: find_channels
-- Ids of the channels with these names.
select id, name from agentchat.channels where name = any (%(channels)s::text[]);

-- name: list_channels
-- A page by name, after a name.
select *
from agentchat.channel_view
where name > %(after)s
  and (%(all)s or role is not null)
  and (%(type)s::agentchat.channel_type is null or type = %(type)s::agentchat.channel_type)
order by name
limit %(limit)s;

-- name: join_channel
-- Joins the caller to a channel with everything read up to an ordinal (null: all there is). Where the
-- caller is a member already, moves what it has read forward, never back; with null leaves it.
insert into agentchat.channel_memberships as p (agent_id, channel_id, read_ordinal)
select %(agent_id)s, c.id, coalesce(least(%(read_ordinal)s::bigint, c.message_count), c.message_count)
from agentchat.channels c
where c.id = %(channel_id)s
on conflict (agent_id, channel_id) do update set read_ordinal = excluded.read_ordinal
    where p.read_ordinal < excluded.read_ordinal and %(read_ordinal)s::bigint is not null;

-- name: mark_channel_read
-- Marks the channel read up to an ordinal (null: to its end), never back. Whoever has not joined joins,
-- and nothing of a channel just joined is unread.
insert into agentchat.channel_memberships as p (agent_id, channel_id, read_ordinal)
select %(agent_id)s, c.id, c.message_count
from agentchat.channels c
where c.id = %(channel_id)s
on conflict (agent_id, channel_id) do update
    set read_ordinal = least(%(read_ordinal)s::bigint, excluded.read_ordinal)
    where p.read_ordinal < least(%(read_ordinal)s::bigint, excluded.read_ordinal);

-- name: leave_channel
delete from agentchat.channel_memberships
where agent_id = %(agent_id)s and channel_id = %(channel_id)s;

-- name: update_channel
-- Null leaves a column. No row comes back where the policies refuse: the caller is no admin of it.
update agentchat.channels
set description = coalesce(%(description)s, description),
    archived = coalesce(%(archived)s, archived)
where id = %(channel_id)s
returning id;
