-- name: get_agent
select * from agentchat.agent_view where id = %(agent_id)s;

-- name: find_agent
select * from agentchat.agent_view where name = %(name)s;

-- name: list_agents
-- A page by name, after a name. online and active filter when not null.
select *
from agentchat.agent_view
where name > %(after)s
  and (%(online)s::boolean is null or online = %(online)s)
  and (%(active)s::boolean is null or active = %(active)s)
order by name
limit %(limit)s;

-- name: describe_agent
-- Sets what the calling agent says of itself; null leaves it.
update agentchat.agents
set description = coalesce(%(description)s, description),
    capabilities = coalesce(%(capabilities)s::text[], capabilities)
where id = %(agent_id)s;
