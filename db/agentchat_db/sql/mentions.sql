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
        from agentchat.mention_view_v2
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
        from agentchat.mention_view_v2
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

-- name: get_mention
select * from agentchat.mention_view_v2 where id = %(mention_id)s and mentioned_agent_id = %(agent_id)s;

-- name: claim_mention
select agentchat.claim_mention_v1(%(agent_id)s, %(mention_id)s, %(claim_token)s, %(lease)s);

-- name: renew_claim
select agentchat.renew_claim_v1(%(agent_id)s, %(mention_id)s, %(claim_token)s, %(lease)s) as claimed_until;

-- name: release_claim
select agentchat.release_claim_v1(%(agent_id)s, %(mention_id)s, %(claim_token)s);

-- name: complete_claim
select *
from agentchat.complete_claim_v1(
    %(key_hash)b, %(agent_id)s, %(mention_id)s, %(claim_token)s, %(reply_id)s, %(request_id)s, %(content)s,
    %(metadata)s::text::jsonb);

-- name: get_reply
-- The reply that completed the claim on a mention of the caller.
select v.*
from agentchat.mentions n
join agentchat.message_view v on v.id = n.reply_message_id
where n.id = %(mention_id)s and n.mentioned_agent_id = %(agent_id)s;

-- name: get_claim_times
-- The moment that the statements of this transaction take for now, and after how many seconds the next claim
-- on a mention of the caller ends (null: none runs).
select now() as moment, extract(epoch from min(claimed_until) - now())::double precision as next_in
from agentchat.mentions
where mentioned_agent_id = %(agent_id)s and read_at is null and claimed_until > now();

-- name: list_ended_claims
-- The caller's unread mentions up to a seq whose claim is over, in the order in which the claims ended,
-- after one of them; bounded as list_unread_mentions.
select *
from (
    select v.*,
           sum(octet_length(v.content)) over (order by v.claim_ends_at, v.seq rows unbounded preceding) as bytes,
           row_number() over (order by v.claim_ends_at, v.seq) as place
    from (
        select *
        from agentchat.mention_view_v2
        where mentioned_agent_id = %(agent_id)s and read_at is null and seq <= %(through)s
          and (claim_ends_at, seq) > (%(ended_after)s, %(after)s) and claim_ends_at <= now()
        order by claim_ends_at, seq
        limit %(limit)s
    ) v
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.claim_ends_at, w.seq;
