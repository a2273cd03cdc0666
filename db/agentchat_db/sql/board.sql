-- name: get_board
-- The number of the caller's unread mentions, and beside it the caller's channels, the liveliest first, each
-- with its newest message, found by its ordinal. Without any channel there is one row whose id is null.
select u.unread_mention_count, b.*
from (
    select count(*) as unread_mention_count
    from agentchat.mentions
    where mentioned_agent_id = %(agent_id)s and read_at is null
) u
left join (
    select c.*, m.id as message_id, m.author_agent_id, a.name as author_name, a.kind as author_kind,
           left(m.content, 200) as content, char_length(m.content) as content_length,
           m.created_at as message_created_at
    from agentchat.channel_view c
    left join agentchat.messages m on m.channel_id = c.id and m.ordinal = c.message_count
    left join agentchat.agents a on a.id = m.author_agent_id
    where c.role is not null and not c.archived
    order by c.last_seq desc, c.name
    limit 1000
) b on true
order by b.last_seq desc, b.name;
