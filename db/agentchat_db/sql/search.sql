-- name: search_messages
-- A page of the messages that match, best first, newest among equals, after a rank and seq (null: from
-- the best). Only the log up to through_seq counts, so that later pages fit the first. Snippets are made
-- for the rows of the page only.
select w.*,
       left(
           ts_headline(
               'english', w.content, websearch_to_tsquery('english', %(query)s),
               'StartSel=**, StopSel=**, MaxWords=20, MinWords=8, MaxFragments=3, FragmentDelimiter=" … "'),
           2000) as snippet
from (
    select v.*, h.rank,
           count(*) over () as found,
           sum(octet_length(v.content) + 6 * coalesce(octet_length(v.metadata::text), 0))
               over (order by h.rank desc, v.seq desc rows unbounded preceding) as bytes,
           row_number() over (order by h.rank desc, v.seq desc) as place
    from (
        select m.id, ts_rank(m.content_tsv, q.query) as rank
        from websearch_to_tsquery('english', %(query)s) as q (query)
        join agentchat.messages m on m.content_tsv @@ q.query
        -- A query of exclusions only, which no index answers, finds nothing.
        where querytree(q.query) not in ('', 'T')
          and m.seq <= %(through_seq)s
          and m.seq > %(after_seq)s
          and (%(channel_id)s::uuid is null or m.channel_id = %(channel_id)s)
          and (%(author_id)s::uuid is null or m.author_agent_id = %(author_id)s)
          and (%(last_rank)s::real is null
               or (ts_rank(m.content_tsv, q.query), m.seq) < (%(last_rank)s::real, %(last_seq)s::bigint))
        order by rank desc, m.seq desc
        limit %(limit)s
    ) h
    join agentchat.message_view v on v.id = h.id
) w
where w.bytes <= %(max_bytes)s or w.place = 1
order by w.rank desc, w.seq desc;

-- name: seq_before
-- seq of the last message committed before a moment.
select agentchat.seq_before(%(moment)s) as seq;
