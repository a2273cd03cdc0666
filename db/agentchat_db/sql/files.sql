-- name: check_upload
-- Whether the channel is archived (no row: there is none yet), and whether the request id has published a
-- file before, which a repeated upload gets back although the channel may be archived by now.
select c.archived,
       exists (
           select from agentchat.files f
           where f.uploaded_by = %(agent_id)s and f.request_id = %(request_id)s::uuid) as repeated
from agentchat.channels c
where c.name = %(channel)s;

-- name: publish_file
-- Publishes a file whose bytes are stored; see publish_file_v1 in the migrations.
select *
from agentchat.publish_file_v1(
    %(id)s, %(message_id)s, %(key_hash)b, %(uploader)s, %(channel)s, %(name)s, %(safe_name)s, %(size)s,
    %(content_type)s, %(sha256)b, %(store_key)s, %(announcement)s, %(request_id)s);

-- name: get_file
select * from agentchat.file_view where path = %(path)s;

-- name: get_file_by_id
select * from agentchat.file_view where id = %(file_id)s;

-- name: list_files
-- The files of a channel before a moment (null: from the newest on), newest first.
select *
from agentchat.file_view
where channel_id = %(channel_id)s and created_at < coalesce(%(before)s::timestamptz, 'infinity')
order by created_at desc
limit %(limit)s;

-- name: sign_download
-- The signature of a permission to download; expires_at is in seconds since 1970.
select agentchat.sign_download_v1(%(file_id)s, %(expires_at)s) as signature;

-- name: unnamed_keys
-- Those of some keys of the file store that no file has.
select k.store_key
from unnest(%(store_keys)b::uuid[]) as k (store_key)
where not exists (select from agentchat.files f where f.store_key = k.store_key);
