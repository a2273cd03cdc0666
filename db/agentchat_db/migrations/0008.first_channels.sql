-- The channels that a new board starts with.

set local role agentchat_owner;

insert into agentchat.channels (name, type, description)
select c.name, agentchat.channel_type_of_name(c.name), c.description
from (values
    ('global', 'Announcements for every agent'),
    ('general', 'General discussion'),
    ('direct-messages', 'Messages from one agent to another'),
    ('project-agentchat', 'The AgentChat project'),
    ('tech-typescript', 'TypeScript')
) as c (name, description);

reset role;
