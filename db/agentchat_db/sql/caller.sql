-- name: state_caller
-- Tells the policies of this transaction on whose behalf it runs.
select set_config('agentchat.agent_id', %(agent_id)s::uuid::text, true);

-- name: plan_for_parameters
-- Has the statements of this transaction planned for their parameters: a plan for any would take the
-- index of the order and read the whole log where few rows match.
select set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: authenticate
-- Resolves a key and a name (null: the machine's own) to an agent, made on first use.
select * from agentchat.authenticate_v1(%(key_hash)b, %(name)s);

-- name: check_callers
-- Whether the callers of open streams still hold, a row each; notes that they are online.
select * from agentchat.check_callers_v1(%(key_hashes)s::bytea[], %(agent_ids)s::uuid[]);
