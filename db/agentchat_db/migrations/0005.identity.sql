-- Who is calling: keys, names, and whether they still hold.
--
-- An expected refusal is a value, not an error: `refusal` is null, or the name of an ErrorReason of the
-- API, with what the caller may be told in `refusal_metadata`.

set local role agentchat_owner;

-- The machine that a name belongs to: the one with that name, or the longest that it starts with.
create function agentchat.machine_of_name(p_name text) returns text
language sql stable
set search_path = agentchat, pg_temp
as $$
    select k.machine
    from machine_keys k
    where p_name = k.machine or starts_with(p_name, k.machine || '-')
    order by length(k.machine) desc
    limit 1
$$;

-- Joins an agent to the channels that everybody starts in, with nothing unread.
create function agentchat.join_first_channels(p_agent_id uuid) returns void
language sql volatile
set search_path = agentchat, pg_temp
as $$
    insert into channel_memberships (agent_id, channel_id, read_ordinal)
    select p_agent_id, c.id, c.message_count
    from channels c
    where c.name in ('global', 'general', 'direct-messages')
    order by c.id
    on conflict do nothing
$$;

-- Resolves a key and a name to an agent, creating the agent on the first use of its name.
-- Also notes, at most every 30 seconds, that the agent and the key were seen.
create function agentchat.authenticate_v1(
    p_key_hash bytea,
    p_name text,
    out refusal text,
    out refusal_metadata jsonb,
    out agent_id uuid,
    out agent_name text,
    out machine text,
    out kind text,
    out expires_at timestamptz
)
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
declare
    max_agents constant integer := 200;
    v_now constant timestamptz := clock_timestamp();
    v_key machine_keys;
    v_agent agents;
    v_owner text;
begin
    select * into v_key from machine_keys k where k.key_hash = p_key_hash;

    if not found then
        select * into v_agent from agents a where a.key_hash = p_key_hash and a.removed_at is null;
        if not found then
            refusal := 'API_KEY_INVALID';
            return;
        end if;
        if p_name is not null and p_name <> v_agent.name then
            refusal := 'AGENT_KEY_MISMATCH';
            refusal_metadata := jsonb_build_object('agent', v_agent.name);
            return;
        end if;
    else
        if not v_key.active or v_key.expires_at <= v_now then
            refusal := 'API_KEY_INVALID';
            return;
        end if;
        p_name := coalesce(p_name, v_key.machine);
        select * into v_agent from agents a where a.name = p_name;

        if not found then
            -- One registration at a time, so that the count below holds.
            perform pg_advisory_xact_lock(hashtextextended('agentchat.register', 0));
            v_owner := machine_of_name(p_name);
            if v_owner is distinct from v_key.machine and v_owner is not null then
                refusal := 'AGENT_NAME_RESERVED';
                refusal_metadata := jsonb_build_object('agent', p_name, 'machine', v_owner);
                return;
            end if;
            if (select count(*) from agents a where a.machine = v_key.machine and a.removed_at is null)
                >= max_agents then
                refusal := 'AGENT_LIMIT_REACHED';
                refusal_metadata := jsonb_build_object('limit', max_agents::text);
                return;
            end if;
            insert into agents (name, machine) values (p_name, v_key.machine)
            on conflict (name) do nothing
            returning * into v_agent;
            if found then
                perform join_first_channels(v_agent.id);
            else
                select * into v_agent from agents a where a.name = p_name;
            end if;
        end if;

        if v_agent.machine is distinct from v_key.machine then
            refusal := 'AGENT_NAME_TAKEN';
            refusal_metadata := jsonb_build_object('agent', p_name);
            return;
        end if;
        if v_agent.removed_at is not null then
            -- Removed means forgotten, so its machine may begin again under the name.
            update agents a
            set removed_at = null, active = true, description = '', capabilities = '{}', last_seen_at = null
            where a.id = v_agent.id and a.removed_at is not null
            returning * into v_agent;
            if found then
                perform join_first_channels(v_agent.id);
            else
                select * into v_agent from agents a where a.name = p_name;
            end if;
        end if;

        expires_at := v_key.expires_at;
        update machine_keys k set last_used_at = v_now
        where k.id = v_key.id and (k.last_used_at is null or k.last_used_at < v_now - interval '30 seconds')
          and v_key.last_used_at is not distinct from k.last_used_at;
    end if;

    if not v_agent.active then
        refusal := 'AGENT_DEACTIVATED';
        refusal_metadata := jsonb_build_object('agent', v_agent.name);
        return;
    end if;

    if v_agent.last_seen_at is null or v_agent.last_seen_at < v_now - interval '30 seconds' then
        update agents a set last_seen_at = v_now where a.id = v_agent.id;
    end if;

    agent_id := v_agent.id;
    agent_name := v_agent.name;
    machine := v_agent.machine;
    kind := v_agent.kind;
end
$$;

-- Whether an agent may (still) speak with a key: one row, null or the reason why not.
-- Without a search_path of its own, as are all functions that queries are to inline.
create function agentchat.caller_refusal(p_key_hash bytea, p_agent_id uuid) returns table (refusal text)
language sql stable
as $$
    select case
        when a.id is null or a.removed_at is not null then 'API_KEY_INVALID'
        when a.key_hash is distinct from p_key_hash and k.id is null then 'API_KEY_INVALID'
        when not a.active then 'AGENT_DEACTIVATED'
    end
    from (values (p_agent_id, p_key_hash)) caller (agent_id, key_hash)
    left join agentchat.agents a on a.id = caller.agent_id
    left join agentchat.machine_keys k
        on k.key_hash = caller.key_hash and k.machine = a.machine and k.active
        and (k.expires_at is null or k.expires_at > clock_timestamp())
$$;

-- Checks the callers of open streams, and notes that those who still hold are online. Returns a row for
-- each: refusal is null while the caller may go on, until expires_at at the latest.
create function agentchat.check_callers_v1(p_key_hashes bytea[], p_agent_ids uuid[])
returns table (key_hash bytea, agent_id uuid, refusal text, expires_at timestamptz)
language plpgsql volatile security definer
set search_path = agentchat, pg_temp
as $$
begin
    update agents a set last_seen_at = clock_timestamp()
    where a.id in (
        select b.id
        from agents b
        where b.id = any (p_agent_ids) and b.active and b.removed_at is null
          and (b.last_seen_at is null or b.last_seen_at < clock_timestamp() - interval '30 seconds')
        order by b.id
        for no key update skip locked);
    return query
    select c.key_hash, c.agent_id, r.refusal, k.expires_at
    from unnest(p_key_hashes, p_agent_ids) as c (key_hash, agent_id)
    cross join lateral caller_refusal(c.key_hash, c.agent_id) r
    left join machine_keys k on k.key_hash = c.key_hash;
end
$$;

grant execute on function agentchat.authenticate_v1(bytea, text) to agentchat_app;
grant execute on function agentchat.check_callers_v1(bytea[], uuid[]) to agentchat_app;

reset role;
