-- The log function once more: now with hops, which replies that complete claims have; and it creates no
-- channel for a message that turns out to repeat another.
--
-- Servers of the release before call send_batch_v1 while an upgrade is under way; it hands on to this one.

set local role agentchat_owner;

-- What messages and mentions refer to is known to exist when the log function writes them, and nothing that
-- they refer to is ever deleted. Foreign keys would only look it up again, row by row, and lock the rows of
-- agents and channels that every batch touches: a fifth to a quarter of what a batch costs Postgres.
alter table agentchat.messages
    drop constraint messages_channel_id_fkey,
    drop constraint messages_author_agent_id_fkey;
alter table agentchat.mentions
    drop constraint mentions_message_id_fkey,
    drop constraint mentions_mentioned_agent_id_fkey,
    drop constraint mentions_mentioning_agent_id_fkey;

-- The names behind an @ in each of some texts, resolved to agents.
--
-- `@name` counts where it does not follow a letter, a digit or another @, underscores between them aside. The
-- word ends at the first character that is no letter, digit, hyphen or underscore; hyphens and underscores at
-- its end do not belong to it, and a word with an underscore inside names nobody. Of the names that the word
-- starts with, up to a hyphen or its end, the longest that an agent has wins. Only the first 50 different words of a text
-- count. Letters are those of ASCII, whatever the locale. agent_id is null where no agent has the name;
-- `active` tells whether the agent can be mentioned.
create or replace function agentchat.mentions_in(p_texts text[])
returns table (n bigint, place bigint, word text, agent_id uuid, agent_name text, active boolean)
language sql stable
as $$
    with words as (
        select distinct on (t.n, w.word) t.n, w.place, w.word
        from unnest(p_texts) with ordinality as t (body, n)
        cross join lateral (
            select r.place, rtrim(lower(r.match[1]), '-_') as word
            from regexp_matches(t.body, '(?<![A-Za-z0-9@_])_*@([A-Za-z0-9][A-Za-z0-9_-]*)', 'g')
                with ordinality as r (match, place)
        ) w
        where strpos(t.body, '@') > 0 and strpos(w.word, '_') = 0
        order by t.n, w.word, w.place
    ),
    counted as (
        select w.n, w.place, w.word, row_number() over (partition by w.n order by w.place) as rank
        from words w
    )
    select c.n, c.place, c.word, coalesce(a.id, p.id), coalesce(a.name, p.name), coalesce(a.active, p.active, false)
    from counted c
    -- Mostly the word is the name. Only otherwise does its beginning have to be looked for.
    left join agentchat.agents a on a.name = c.word and a.removed_at is null
    left join lateral (
        select b.id, b.name, b.active
        -- No name is longer than 100 characters: the hyphen that ends one is among the first 101.
        from (select string_to_array(left(c.word, 101), '-') as parts) w
        cross join generate_series(1, cardinality(w.parts) - 1) as k
        join agentchat.agents b on b.name = array_to_string(w.parts[1:k], '-') and b.removed_at is null
        where a.id is null
        order by length(b.name) desc
        limit 1
    ) p on true
    where c.rank <= 50
$$;

-- Posts a batch of messages in one transaction. All arguments are arrays of the same length, an element
-- a message; the order of the elements becomes the order of the log.
--
--   p_ids          id of the message, made before the first attempt: sending the batch again is harmless
--   p_key_hashes   the key that the author called with
--   p_authors      the author
--   p_channels     name of the channel, which is created when there is none
--   p_contents     content
--   p_metadata     JSON object, or null
--   p_parents      message replied to, or null
--   p_request_ids  what makes the call repeatable, or null
--   p_targets      the agent that must exist and be active (a direct message), or null
--   p_hops         how many completed claims led to the message, 0 for what is simply posted
--
-- Returns a row for each element. outcome is SENT; REPLAYED, the request id had posted the same message
-- before; or the name of the ErrorReason for which nothing was written (TARGET_DEACTIVATED stands for
-- AGENT_DEACTIVATED of the target). Expected refusals never raise. Formats are checked by the caller;
-- a violated table constraint raises and nothing of the batch is written.
--
-- Nested loops over indexes are right whatever the statistics say, and a generic plan is right for
-- every batch: the settings keep an empty table's plan from outliving its emptiness.
create function agentchat.send_batch_v2(
    p_ids uuid[],
    p_key_hashes bytea[],
    p_authors uuid[],
    p_channels text[],
    p_contents text[],
    p_metadata jsonb[],
    p_parents uuid[],
    p_request_ids uuid[],
    p_targets text[],
    p_hops integer[]
)
returns table (
    outcome text,
    message_id uuid,
    seq bigint,
    ordinal bigint,
    channel_id uuid,
    hops integer,
    created_at timestamptz,
    -- Null when the content names nobody, else
    -- {"mentioned": [{"agent_id": "…", "name": "…", "mention_id": "…"}, …], "unknown": ["…", …]}, both in text
    -- order. mention_id is there only when this call made the mention.
    mentions jsonb
)
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    max_created_channels constant integer := 20;
    v_seq bigint;
    v_last timestamptz;
    v_first timestamptz;
    v_count integer;
    v_outcomes text[];
    v_channel_ids uuid[];
    v_message_ids uuid[];
    v_new_ids uuid[];
    v_names_anybody constant boolean := exists (select from unnest(p_contents) as t where strpos(t, '@') > 0);
    v_agents uuid[];
    v_new_mentions uuid[];
    v_mention_ids uuid[] := '{}';
    v_mentioned_agents uuid[] := '{}';
    v_mentioning_ids uuid[] := '{}';
    v_mentions jsonb[] := array_fill(null::jsonb, array[cardinality(p_ids)]);
    v_position integer;
    v_json jsonb;
    v_id uuid;
begin
    -- 1. Locks, each in a statement of its own, so that the statements after it see what was committed
    --    before: the counter, then the channels by id.
    select p.seq, p.last_created_at into strict v_seq, v_last from log_position p for update;
    perform from channels c where c.name = any (p_channels) order by c.id for no key update;

    -- 2. Judge every element.
    select array_agg(j.outcome order by j.n), array_agg(j.channel_id order by j.n),
           array_agg(j.message_id order by j.n)
    into v_outcomes, v_channel_ids, v_message_ids
    from (
        select
            i.n,
            c.id as channel_id,
            coalesce(same_id.id, same_request.id, i.id) as message_id,
            case
                when caller.refusal is not null then caller.refusal
                when same_id.id is not null then 'SENT'
                when same_request.id is not null then 'REPLAYED'
                when i.target is not null and target.id is null then 'AGENT_NOT_FOUND'
                when i.target is not null and not target.active then 'TARGET_DEACTIVATED'
                when c.archived then 'CHANNEL_ARCHIVED'
                when i.parent is not null and parent.channel_id is distinct from c.id then 'MESSAGE_NOT_FOUND'
                else 'SEND'
            end as outcome
        from unnest(p_ids, p_key_hashes, p_authors, p_channels, p_parents, p_request_ids, p_targets)
            with ordinality as i (id, key_hash, author, channel, parent, request_id, target, n)
        cross join lateral caller_refusal(i.key_hash, i.author) caller
        left join channels c on c.name = i.channel
        left join messages same_id on same_id.id = i.id
        left join messages same_request
            on same_request.author_agent_id = i.author and same_request.request_id = i.request_id
        left join messages parent on parent.id = i.parent
        left join agents target on target.name = i.target and target.removed_at is null
    ) j;

    -- 3. The same request id twice in this batch: the first posts, the others repeat it.
    if array_position(v_outcomes, 'SEND') is not null
        and exists (select from unnest(p_request_ids) as r where r is not null) then
        for v_position, v_id in
            select f.n, f.leader_id
            from (
                select r.n, first_value(r.n) over same_call as leader, first_value(r.id) over same_call as leader_id
                from unnest(p_ids, p_authors, p_request_ids, v_outcomes)
                    with ordinality as r (id, author, request_id, outcome, n)
                where r.outcome = 'SEND' and r.request_id is not null
                window same_call as (partition by r.author, r.request_id order by r.n)
            ) f
            where f.n <> f.leader
        loop
            v_outcomes[v_position] := 'REPLAYED';
            v_message_ids[v_position] := v_id;
        end loop;
    end if;

    -- 4. Create the channels that are missing, each for the first that posts to it.
    for i in 1 .. cardinality(p_ids) loop
        continue when v_outcomes[i] <> 'SEND' or v_channel_ids[i] is not null;
        select c.id into v_id from channels c where c.name = p_channels[i];
        if not found then
            if (select count(*) from channels c where c.created_by = p_authors[i]) >= max_created_channels then
                -- Refuses it, and with it those that would have repeated it.
                for j in i .. cardinality(p_ids) loop
                    if v_message_ids[j] = p_ids[i] then
                        v_outcomes[j] := 'CHANNEL_LIMIT_REACHED';
                    end if;
                end loop;
                continue;
            end if;
            insert into channels (name, type, created_by)
            values (p_channels[i], channel_type_of_name(p_channels[i]), p_authors[i])
            returning id into v_id;
            insert into channel_memberships (agent_id, channel_id, role) values (p_authors[i], v_id, 'admin');
        end if;
        v_channel_ids[i] := v_id;
    end loop;

    -- 5. Whom the messages name.
    if v_names_anybody then
        for v_position, v_agents, v_new_mentions, v_json in
            select
                w.n,
                array_agg(w.agent_id) filter (where w.mention_id is not null),
                array_agg(w.mention_id) filter (where w.mention_id is not null),
                jsonb_build_object(
                    'mentioned', coalesce(
                        jsonb_agg(
                            jsonb_strip_nulls(jsonb_build_object(
                                'agent_id', w.agent_id, 'name', w.agent_name, 'mention_id', w.mention_id))
                            order by w.place) filter (where w.mentioned),
                        '[]'),
                    'unknown', coalesce(jsonb_agg(w.word order by w.place) filter (where not w.active), '[]'))
            from (
                select g.*, case when g.mentioned and v_outcomes[g.n] = 'SEND' then new_uuid() end as mention_id
                from (
                    select f.*,
                           f.active and f.agent_id <> p_authors[f.n]
                               and f.place = min(f.place) over (partition by f.n, f.agent_id) as mentioned
                    from mentions_in(p_contents) f
                ) g
            ) w
            group by w.n
        loop
            v_mentions[v_position] := v_json;
            if v_agents is not null then
                v_mention_ids := v_mention_ids || v_new_mentions;
                v_mentioned_agents := v_mentioned_agents || v_agents;
                v_mentioning_ids := v_mentioning_ids || array_fill(p_ids[v_position], array[cardinality(v_agents)]);
            end if;
        end loop;
    end if;

    -- 6. Number what is left, without gaps, and write it.
    v_first := greatest(clock_timestamp(), v_last + interval '1 microsecond');
    with written as (
        insert into messages (
            id, seq, channel_id, ordinal, author_agent_id, content, metadata, parent_message_id, hops,
            request_id, created_at)
        select
            s.id, v_seq + s.rank, s.channel_id, c.message_count + s.channel_rank, s.author, s.content,
            s.metadata, s.parent, s.hops, s.request_id, v_first + (s.rank - 1) * interval '1 microsecond'
        from (
            select i.*,
                   row_number() over (order by i.n) as rank,
                   row_number() over (partition by i.channel_id order by i.n) as channel_rank
            from unnest(
                    p_ids, p_authors, p_contents, p_metadata, p_parents, p_hops, p_request_ids, v_outcomes,
                    v_channel_ids)
                with ordinality as i (
                    id, author, content, metadata, parent, hops, request_id, outcome, channel_id, n)
            where i.outcome = 'SEND'
        ) s
        join channels c on c.id = s.channel_id
        order by s.rank
        returning id
    )
    select array_agg(w.id), count(*) into v_new_ids, v_count from written w;

    if v_count > 0 then
        -- 7. Mentions.
        if v_mentioned_agents <> '{}' then
            insert into mentions (id, message_id, mentioned_agent_id, mentioning_agent_id, seq)
            select u.id, m.id, u.agent_id, m.author_agent_id, m.seq
            from unnest(v_mention_ids, v_mentioning_ids, v_mentioned_agents) as u (id, message_id, agent_id)
            join messages m on m.id = u.message_id;
        end if;

        -- 8. The channels' counts (the rows are locked since step 1, or new).
        update channels c
        set message_count = c.message_count + t.count, last_seq = t.last_seq
        from (
            select m.channel_id, count(*) as count, max(m.seq) as last_seq
            from messages m where m.id = any (v_new_ids) group by m.channel_id
        ) t
        where c.id = t.channel_id;

        -- 9. Posting joins, with nothing older unread, and whoever was caught up stays caught up: its
        --    own messages that directly follow what it has read are read. Locked first, so that the statement
        --    after it sees what others have just marked read.
        perform from channel_memberships p
        where (p.agent_id, p.channel_id) in (
            select m.author_agent_id, m.channel_id from messages m where m.id = any (v_new_ids))
        order by p.agent_id, p.channel_id
        for no key update;

        insert into channel_memberships as p (agent_id, channel_id, read_ordinal)
        select o.author_agent_id, o.channel_id,
               o.read_before + count(*) filter (where o.ordinal = o.read_before + o.rank)
        from (
            select m.author_agent_id, m.channel_id, m.ordinal,
                   row_number() over own as rank,
                   coalesce(p.read_ordinal, first_value(m.ordinal) over own - 1) as read_before
            from messages m
            left join channel_memberships p
                on p.agent_id = m.author_agent_id and p.channel_id = m.channel_id
            where m.id = any (v_new_ids)
            window own as (partition by m.author_agent_id, m.channel_id order by m.ordinal)
        ) o
        group by o.author_agent_id, o.channel_id, o.read_before
        on conflict (agent_id, channel_id) do update set read_ordinal = excluded.read_ordinal
            where p.read_ordinal < excluded.read_ordinal;

        -- 10. Advance the counter and wake the hubs. NOTIFY takes a lock of the whole database at commit:
        --    once per batch.
        update log_position p
        set seq = v_seq + v_count,
            last_created_at = v_first + (v_count - 1) * interval '1 microsecond';
        perform pg_notify('agentchat_log', (v_seq + v_count)::text);
    end if;

    -- 11. Tell each caller what became of its message.
    return query
    select
        case
            when i.outcome = 'SEND' then 'SENT'
            when i.outcome = 'REPLAYED' and (
                c.name <> i.channel or m.content <> i.content
                or m.metadata is distinct from i.metadata
                or m.parent_message_id is distinct from i.parent) then 'REQUEST_ID_REUSED'
            else i.outcome
        end,
        m.id, m.seq, m.ordinal, m.channel_id, m.hops, m.created_at, i.mentions
    from unnest(p_channels, p_contents, p_metadata, p_parents, v_outcomes, v_message_ids, v_mentions)
        with ordinality as i (channel, content, metadata, parent, outcome, message_id, mentions, n)
    left join messages m
        on m.id = i.message_id and i.outcome in ('SEND', 'SENT', 'REPLAYED')
    left join channels c on c.id = m.channel_id
    order by i.n;
end
$$;

create or replace function agentchat.send_batch_v1(
    p_ids uuid[],
    p_key_hashes bytea[],
    p_authors uuid[],
    p_channels text[],
    p_contents text[],
    p_metadata jsonb[],
    p_parents uuid[],
    p_request_ids uuid[],
    p_targets text[]
)
returns table (
    outcome text,
    message_id uuid,
    seq bigint,
    ordinal bigint,
    channel_id uuid,
    hops integer,
    created_at timestamptz,
    mentions jsonb
)
language sql volatile security definer
set search_path = agentchat, pg_temp
as $$
    select *
    from send_batch_v2(
        p_ids, p_key_hashes, p_authors, p_channels, p_contents, p_metadata, p_parents, p_request_ids, p_targets,
        array_fill(0, array[cardinality(p_ids)]))
$$;

grant execute on function agentchat.send_batch_v2(
    uuid[], bytea[], uuid[], text[], text[], jsonb[], uuid[], uuid[], text[], integer[]) to agentchat_app;

-- The hub reads mentions by the stretch of the log they are in. An index on seq itself would also offer
-- itself to an agent's history of mentions, newest first, and walk past everybody else's to find it.
drop index agentchat.mentions_by_seq;
create index mentions_by_log on agentchat.mentions ((seq + 0));

create or replace function agentchat.log_mentions_v1(p_after_seq bigint, p_through_seq bigint)
returns table (seq bigint, mention_id uuid, agent_id uuid)
language sql stable security definer
set search_path = agentchat, pg_temp
as $$
    select m.seq, m.id, m.mentioned_agent_id
    from mentions m
    where m.seq + 0 > p_after_seq and m.seq + 0 <= p_through_seq
    order by m.seq + 0
$$;

reset role;
