-- An agent that was removed and comes back counts among its machine's agents, as a new one does. And nobody
-- waits to note that a key or an agent was seen: whoever holds the row is noting it.

set local role agentchat_owner;

-- Resolves a key and a name to an agent, creating the agent on the first use of its name.
-- Also notes, at most every 30 seconds, that the agent and the key were seen.
create or replace function agentchat.authenticate_v1(
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

        if not found or (v_agent.removed_at is not null and v_agent.machine = v_key.machine) then
            -- One registration at a time, so that the count holds. Another may just have made the agent.
            perform pg_advisory_xact_lock(hashtextextended('agentchat.register', 0));
            select * into v_agent from agents a where a.name = p_name;
            if (v_agent.id is null or v_agent.removed_at is not null) and (select count(*) from agents a where a.machine = v_key.machine and a.removed_at is null)
                >= max_agents then
                refusal := 'AGENT_LIMIT_REACHED';
                refusal_metadata := jsonb_build_object('limit', max_agents::text);
                return;
            end if;
        end if;

        if v_agent.id is null then
            v_owner := machine_of_name(p_name);
            if v_owner is distinct from v_key.machine and v_owner is not null then
                refusal := 'AGENT_NAME_RESERVED';
                refusal_metadata := jsonb_build_object('agent', p_name, 'machine', v_owner);
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
        if v_key.last_used_at is null or v_key.last_used_at < v_now - interval '30 seconds' then
            update machine_keys k set last_used_at = v_now
            where k.id in (select l.id from machine_keys l where l.id = v_key.id for no key update skip locked);
        end if;
    end if;

    if not v_agent.active then
        refusal := 'AGENT_DEACTIVATED';
        refusal_metadata := jsonb_build_object('agent', v_agent.name);
        return;
    end if;

    if v_agent.last_seen_at is null or v_agent.last_seen_at < v_now - interval '30 seconds' then
        update agents a set last_seen_at = v_now
        where a.id in (select b.id from agents b where b.id = v_agent.id for no key update skip locked);
    end if;

    agent_id := v_agent.id;
    agent_name := v_agent.name;
    machine := v_agent.machine;
    kind := v_agent.kind;
end
$$;

reset role;
