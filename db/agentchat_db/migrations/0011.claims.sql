-- Claims: one of several processes of an agent works on a mention, and answers it once.
--
-- A claim runs while the mention is unread and claimed_until is to come. It is over when that has passed,
-- whether by expiry or by release; its token stays on the row until the next claim, so that a mention whose
-- claim is over is told from one that nobody ever claimed. docs/decisions/0008-claims.md tells the rest.

set local role agentchat_owner;

-- The reply that completed the mention's last claim.
alter table agentchat.mentions add column reply_message_id uuid references agentchat.messages;
grant select (reply_message_id) on agentchat.mentions to agentchat_app;

-- When the claims of an agent's unread mentions end, or have ended.
create index mentions_claimed on agentchat.mentions (mentioned_agent_id, claimed_until, seq)
    where read_at is null and claimed_until is not null;

-- mention_view, for servers that know of claims: one more column would break the prepared statements of
-- those that do not and still run. claimed_until is what the API shows: null unless a claim runs.
-- claim_ends_at is when the last claim ends, or has ended.
create view agentchat.mention_view_v2 with (security_invoker = true) as
    select n.id, n.message_id, n.mentioned_agent_id, n.seq, m.channel_id, m.channel_name,
           m.author_agent_id as from_agent_id, m.author_name as from_agent_name, m.author_kind as from_agent_kind,
           case when jsonb_typeof(m.metadata -> 'project') = 'string' then m.metadata ->> 'project' else '' end
               as from_project,
           m.content, m.parent_message_id, m.hops, m.created_at, n.read_at,
           case when n.read_at is null and n.claimed_until > now() then n.claimed_until end as claimed_until,
           n.claimed_until as claim_ends_at
    from agentchat.mentions n
    join agentchat.message_view m on m.id = n.message_id;

grant select on agentchat.mention_view_v2 to agentchat_app;

-- A mention of an agent, locked.
create function agentchat.lock_mention(p_agent_id uuid, p_mention_id uuid) returns agentchat.mentions
language plpgsql volatile
set search_path = agentchat, pg_temp
set enable_seqscan = off
as $$
declare
    v_mention mentions;
begin
    select * into v_mention
    from mentions m
    where m.id = p_mention_id and m.mentioned_agent_id = p_agent_id
    for no key update;
    if not found then
        perform refuse('MENTION_NOT_FOUND', jsonb_build_object('mention_id', p_mention_id));
    end if;
    return v_mention;
end
$$;

-- Refuses unless the token is that of the claim that runs on the mention.
create function agentchat.require_claim(p_mention agentchat.mentions, p_claim_token uuid) returns void
language plpgsql volatile
set search_path = agentchat, pg_temp
as $$
begin
    if p_mention.read_at is not null
        or p_mention.claim_token is distinct from p_claim_token
        or p_mention.claimed_until <= clock_timestamp() then
        perform refuse('CLAIM_LOST', jsonb_build_object('mention_id', p_mention.id));
    end if;
end
$$;

-- Tells every worker that a claim of an agent ends after p_lease, or has ended: a lease of 0.
create function agentchat.claims_changed(p_agent_id uuid, p_lease interval) returns void
language sql volatile
set search_path = agentchat, pg_temp
as $$ select pg_notify('agentchat_claims', p_agent_id || ' ' || extract(epoch from p_lease)) $$;

-- Claims an unread mention that is not claimed. The token is made before the first attempt: claiming again
-- with the token of the claim that runs is harmless.
create function agentchat.claim_mention_v1(
    p_agent_id uuid, p_mention_id uuid, p_claim_token uuid, p_lease interval
) returns void
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_mention constant mentions := lock_mention(p_agent_id, p_mention_id);
begin
    if v_mention.read_at is not null then
        perform refuse('MENTION_READ', jsonb_build_object('mention_id', p_mention_id));
    end if;
    if v_mention.claimed_until > clock_timestamp() and v_mention.claim_token <> p_claim_token then
        perform refuse('MENTION_CLAIMED', jsonb_build_object('mention_id', p_mention_id));
    end if;
    update mentions m
    set claim_token = p_claim_token, claimed_until = clock_timestamp() + p_lease
    where m.id = p_mention_id;
    perform claims_changed(p_agent_id, p_lease);
end
$$;

-- Lets a claim that runs end after p_lease from now. Returns when that is.
create function agentchat.renew_claim_v1(
    p_agent_id uuid, p_mention_id uuid, p_claim_token uuid, p_lease interval
) returns timestamptz
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    v_mention constant mentions := lock_mention(p_agent_id, p_mention_id);
    v_claimed_until constant timestamptz := clock_timestamp() + p_lease;
begin
    perform require_claim(v_mention, p_claim_token);
    update mentions m set claimed_until = v_claimed_until where m.id = p_mention_id;
    -- Workers look when the claim would have ended, and see then that it goes on.
    if v_claimed_until < v_mention.claimed_until then
        perform claims_changed(p_agent_id, p_lease);
    end if;
    return v_claimed_until;
end
$$;

-- Ends a claim that runs.
create function agentchat.release_claim_v1(p_agent_id uuid, p_mention_id uuid, p_claim_token uuid) returns void
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
begin
    perform require_claim(lock_mention(p_agent_id, p_mention_id), p_claim_token);
    update mentions m set claimed_until = clock_timestamp() where m.id = p_mention_id;
    perform claims_changed(p_agent_id, interval '0');
end
$$;

-- Posts the reply to a claimed mention and marks the mention read. Repeated with the token of the claim that
-- was completed, it returns the first reply.
--
--   p_key_hash     the key that the agent called with
--   p_message_id   id of the reply, made before the first attempt
--   p_request_id   request id of the reply, always the same for a mention
--   p_content      content of the reply
--   p_metadata     JSON object, or null
--
-- `replayed` tells whether the reply was there already. `mentions` is as send_batch_v2 has it. A reply that
-- is refused is an error, and nothing is written. Locks: the counter, the mention, then as send_batch_v2.
create function agentchat.complete_claim_v1(
    p_key_hash bytea,
    p_agent_id uuid,
    p_mention_id uuid,
    p_claim_token uuid,
    p_message_id uuid,
    p_request_id uuid,
    p_content text,
    p_metadata jsonb,
    out replayed boolean,
    out mentions jsonb
)
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
set enable_seqscan = off
as $$
declare
    v_mention agentchat.mentions;
    v_channel text;
    v_hops integer;
    v_reply record;
begin
    -- A token that is not the mention's will never be: the log is not held up for it.
    select m.* into v_mention
    from agentchat.mentions m
    where m.id = p_mention_id and m.mentioned_agent_id = p_agent_id;
    if v_mention.claim_token is distinct from p_claim_token then
        perform require_claim(lock_mention(p_agent_id, p_mention_id), p_claim_token);
    end if;

    perform from log_position p for update;
    v_mention := lock_mention(p_agent_id, p_mention_id);
    if v_mention.claim_token is distinct from p_claim_token or v_mention.reply_message_id is null then
        perform require_claim(v_mention, p_claim_token);
    end if;

    select c.name, m.hops + 1 into strict v_channel, v_hops
    from messages m
    join channels c on c.id = m.channel_id
    where m.id = v_mention.message_id;
    select b.outcome, b.message_id, b.mentions into strict v_reply
    from send_batch_v2(
        array[p_message_id], array[p_key_hash], array[p_agent_id], array[v_channel], array[p_content],
        array[p_metadata], array[v_mention.message_id], array[p_request_id], array[null::text], array[v_hops]) b;
    if v_reply.outcome not in ('SENT', 'REPLAYED') then
        perform refuse(
            v_reply.outcome,
            case v_reply.outcome
                when 'AGENT_DEACTIVATED' then
                    jsonb_build_object('agent', (select a.name from agents a where a.id = p_agent_id))
                when 'CHANNEL_ARCHIVED' then jsonb_build_object('channel', v_channel)
                when 'REQUEST_ID_REUSED' then jsonb_build_object('request_id', p_request_id)
                else '{}'
            end);
    end if;

    update agentchat.mentions m
    set read_at = clock_timestamp(), reply_message_id = v_reply.message_id
    where m.id = p_mention_id and m.read_at is null;
    replayed := v_reply.outcome = 'REPLAYED';
    mentions := v_reply.mentions;
end
$$;

-- What a worker needs to know of the claims of the agents that it has streams of: at which moment it was
-- told, who has a claim that ended after p_after up to that moment, and after how many seconds the next one
-- of them ends (null: none runs).
create function agentchat.claim_ends_v1(
    p_agent_ids uuid[],
    p_after timestamptz,
    out moment timestamptz,
    out ended_agent_ids uuid[],
    out next_in double precision
)
language plpgsql stable security definer
set search_path = agentchat, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    select now(),
           coalesce(array_agg(a.id) filter (where ended.agent_id is not null), '{}'),
           extract(epoch from min(running.claimed_until) - now())
    into moment, ended_agent_ids, next_in
    from unnest(p_agent_ids) as a (id)
    left join lateral (
        select m.mentioned_agent_id as agent_id
        from mentions m
        where m.mentioned_agent_id = a.id and m.read_at is null
          and m.claimed_until > p_after and m.claimed_until <= now()
        limit 1
    ) ended on true
    left join lateral (
        select m.claimed_until
        from mentions m
        where m.mentioned_agent_id = a.id and m.read_at is null and m.claimed_until > now()
        order by m.claimed_until
        limit 1
    ) running on true;
end
$$;

grant execute on function
    agentchat.claim_mention_v1(uuid, uuid, uuid, interval),
    agentchat.renew_claim_v1(uuid, uuid, uuid, interval),
    agentchat.release_claim_v1(uuid, uuid, uuid),
    agentchat.complete_claim_v1(bytea, uuid, uuid, uuid, uuid, uuid, text, jsonb),
    agentchat.claim_ends_v1(uuid[], timestamptz)
    to agentchat_app;

reset role;
