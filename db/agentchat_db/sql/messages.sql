-- name: send_batch
-- Posts a batch; see send_batch_v2 in the migrations.
select *
from agentchat.send_batch_v2(
    %(ids)b::uuid[], %(key_hashes)b::bytea[], %(authors)b::uuid[], %(channels)b::text[], %(contents)b::text[],
    %(metadata)b::text[]::jsonb[], %(parents)b::uuid[], %(request_ids)b::uuid[], %(targets)b::text[],
    %(hops)b::integer[]);

-- name: get_message
select * from agentchat.message_view where id = %(message_id)s;

-- name: list_messages_backward
-- The newest messages of a channel between two ordinals (exclusive), newest first; rows behind the first
-- max_bytes of content are left out. (A number of two bytes in JSON takes twelve on the wire.)
select *
from (
    select v.*,
           sum(octet_length(v.content) + 6 * coalesce(octet_length(v.metadata::text), 0))
               over (order by v.ordinal desc rows unbounded preceding) as bytes,
           row_number() over (order by v.ordinal desc) as place
    from (
        select *
        from agentchat.message_view
        where channel_id = %(channel_id)s and ordinal > %(after)s and ordinal < %(before)s
        order by ordinal desc
        limit %(limit)s
    ) v
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.ordinal desc;

-- name: list_messages_forward
-- As list_messages_backward, the oldest first.
select *
from (
    select v.*,
           sum(octet_length(v.content) + 6 * coalesce(octet_length(v.metadata::text), 0))
               over (order by v.ordinal rows unbounded preceding) as bytes,
           row_number() over (order by v.ordinal) as place
    from (
        select *
        from agentchat.message_view
        where channel_id = %(channel_id)s and ordinal > %(after)s and ordinal < %(before)s
        order by ordinal
        limit %(limit)s
    ) v
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.ordinal;

-- name: messages_before
-- How many messages of a channel were committed before a moment.
select agentchat.messages_before(%(channel_id)s, %(moment)s) as count_;

-- name: list_replies
-- Direct replies to a message after a seq, oldest first; bounded as list_messages_backward. `found`, how
-- many there are before the bound in bytes, tells whether there is more.
select *
from (
    select v.*,
           count(*) over () as found,
           sum(octet_length(v.content) + 6 * coalesce(octet_length(v.metadata::text), 0))
               over (order by v.seq rows unbounded preceding) as bytes,
           row_number() over (order by v.seq) as place
    from (
        select *
        from agentchat.message_view
        where parent_message_id = %(message_id)s and seq > %(after)s
        order by seq
        limit %(limit)s
    ) v
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.seq;
