-- name: authenticate_admin
select agentchat.authenticate_admin_v1(%(admin_key_hash)b);

-- name: create_admin_key
-- Needs the owner's rights: not for the server.
select agentchat.create_admin_key_v1(%(key_hash)b);

-- name: create_machine_key
select * from agentchat.create_machine_key_v1(%(admin_key_hash)b, %(machine)s, %(key_hash)b, %(expires_at)s);

-- name: rotate_machine_key
select (r.machine_key).*, r.old_keys_expire_at
from agentchat.rotate_machine_key_v1(%(admin_key_hash)b, %(machine)s, %(key_hash)b, %(grace)s) r;

-- name: revoke_machine_key
select agentchat.revoke_machine_key_v1(%(admin_key_hash)b, %(key_id)s, %(machine)s) as revoked_count;

-- name: list_machine_keys
select * from agentchat.list_machine_keys_v1(%(admin_key_hash)b, %(after_id)s, %(limit)s);

-- name: create_agent_key
select agentchat.create_agent_key_v1(%(admin_key_hash)b, %(agent)s, %(key_hash)b) as agent_id;

-- name: set_agent_active
select agentchat.set_agent_active_v1(%(admin_key_hash)b, %(agent)s, %(active)s) as agent_id;

-- name: remove_agent
select agentchat.remove_agent_v1(%(admin_key_hash)b, %(agent)s);

-- name: set_channel_archived
select agentchat.set_channel_archived_v1(%(admin_key_hash)b, %(channel)s, %(archived)s) as channel_id;

-- name: knows_admin_key
-- Needs the owner's rights: not for the server.
select exists (select from agentchat.admin_keys where key_hash = %(key_hash)b and active);

-- name: knows_key
-- Needs the owner's rights: not for the server.
select exists (select from agentchat.machine_keys where key_hash = %(key_hash)b)
    or exists (select from agentchat.agents where key_hash = %(key_hash)b);

-- name: make_roles
-- Needs a superuser: not for the server. The roles of the migration `roles`, for a cluster that has none.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'agentchat_owner') then
        create role agentchat_owner nologin;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'agentchat_app') then
        create role agentchat_app login;
    end if;
end
$$;

-- name: renew_log_id
-- Needs the owner's rights: not for the server. Every cursor that was given before is refused from now on.
update agentchat.log_position set log_id = gen_random_uuid();
