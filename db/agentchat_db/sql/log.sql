-- name: get_log_position
select log_id, seq from agentchat.log_position;

-- name: read_log
-- The next messages of the log after a seq, up to a number of rows and, after the first, of bytes.
select *
from (
    select v.*,
           sum(octet_length(v.content)) over (order by v.seq rows unbounded preceding) as bytes,
           row_number() over (order by v.seq) as place
    from (
        select *
        from agentchat.message_view
        where seq > %(after)s
        order by seq
        limit %(limit)s
    ) v
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.seq;

-- name: read_log_mentions
-- Who is mentioned in a stretch of the log.
select * from agentchat.log_mentions_v1(%(after)s, %(through)s);

-- name: read_watched_log
-- The log as one caller watches it: in some channels (null: all), with the caller's own mention of each.
select *
from (
    select v.*, n.id as mention_id,
           sum(octet_length(v.content)) over (order by v.seq rows unbounded preceding) as bytes,
           row_number() over (order by v.seq) as place
    from (
        select *
        from agentchat.message_view
        where seq > %(after)s and seq <= %(through)s
          and (%(channel_ids)s::uuid[] is null or channel_id = any (%(channel_ids)s::uuid[]))
        order by seq
        limit %(limit)s
    ) v
    left join agentchat.mentions n on n.seq = v.seq and n.mentioned_agent_id = %(agent_id)s
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.seq;
