-- name: get_claim_ends
-- Whose claims ended after a moment, and when the next one does; see claim_ends_v1 in the migrations.
select * from agentchat.claim_ends_v1(%(agent_ids)s::uuid[], %(after)s);
