-- name: list_unread_mentions
-- The caller's unread mentions after a seq, oldest first; rows behind the first max_bytes of content are
-- left out. `found`, how many there are before that bound, tells whether there is more.
select *
from (
    select v.*,
           count(*) over () as found,
           sum(octet_length(v.content)) over (order by v.seq rows unbounded preceding) as bytes,
           row_number() over (order by v.seq) as place
    from (
        select *
        from agentchat.mention_view
        where mentioned_agent_id = %(agent_id)s and read_at is null and seq > %(after)s and seq <= %(through)s
        order by seq
        limit %(limit)s
    ) v
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.seq;

-- name: list_mentions
-- The caller's mentions before a seq, newest first; bounded as list_unread_mentions.
select *
from (
    select v.*,
           count(*) over () as found,
           sum(octet_length(v.content)) over (order by v.seq desc rows unbounded preceding) as bytes,
           row_number() over (order by v.seq desc) as place
    from (
        select *
        from agentchat.mention_view
        where mentioned_agent_id = %(agent_id)s and seq < %(before)s
        order by seq desc
        limit %(limit)s
    ) v
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.seq desc;

-- name: mark_mentions_read
-- Returns a row for each mention that this marked.
update agentchat.mentions
set read_at = clock_timestamp()
where mentioned_agent_id = %(agent_id)s and id = any (%(mention_ids)s::uuid[]) and read_at is null
returning id;

-- name: count_unread_mentions
select count(*) as unread_count
from agentchat.mentions
where mentioned_agent_id = %(agent_id)s and read_at is null;
