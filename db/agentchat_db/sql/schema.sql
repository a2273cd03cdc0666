-- name: describe_schema
-- The schema agentchat as a row for each fact: what it is about, where it stands, what it says. Reads the
-- same on every supported version of Postgres: not-null constraints, which are rows of a catalog from 18 on,
-- are told with their columns, and the privilege MAINTAIN, which 17 brought, is left out.
with
    schema_ as (select n.* from pg_namespace n where n.nspname = 'agentchat'),
    relations as (
        select c.*, format('%s.%s', c.relnamespace::regnamespace::text, quote_ident(c.relname)) as name,
               case c.relkind
                   when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view'
                   when 'm' then 'materialized view' when 'S' then 'sequence' else 'relation ' || c.relkind::text
               end as kind
        from pg_class c
        where c.relnamespace = (select oid from schema_) and c.relkind not in ('i', 'I', 'c', 't')
    ),
    functions as (
        select p.*,
               p.pronamespace::regnamespace::text || '.' || quote_ident(p.proname)
                   || '(' || pg_get_function_identity_arguments(p.oid) || ')' as name,
               case p.prokind when 'f' then 'function' when 'p' then 'procedure' else 'function ' || p.prokind::text end
                   as kind
        from pg_proc p
        where p.pronamespace = (select oid from schema_)
    ),
    types as (
        select t.*, format_type(t.oid, null) as name,
               case t.typtype when 'd' then 'domain' when 'e' then 'enum' else 'type ' || t.typtype::text end as kind
        from pg_type t
        -- Not the types that come with tables, and not those of arrays.
        where t.typnamespace = (select oid from schema_) and t.typelem = 0
          and (t.typrelid = 0 or (select c.relkind from pg_class c where c.oid = t.typrelid) = 'c')
    ),
    privileges as (
        select 'schema' as kind, s.nspname::text as name, coalesce(s.nspacl, acldefault('n', s.nspowner)) as acl
        from schema_ s
        union all
        select r.kind, r.name,
               coalesce(r.relacl, acldefault(case r.relkind when 'S' then 's'::"char" else 'r' end, r.relowner))
        from relations r
        union all
        select f.kind, f.name, coalesce(f.proacl, acldefault('f', f.proowner)) from functions f
        union all
        select t.kind, t.name, coalesce(t.typacl, acldefault('T', t.typowner)) from types t
    ),
    facts (kind, name, part, place, fact) as (
        select 'role', r.rolname::text, 0, 0,
               concat_ws(' ',
                   case when r.rolsuper then 'superuser' end,
                   case when r.rolcanlogin then 'login' else 'nologin' end,
                   case when r.rolinherit then 'inherit' else 'noinherit' end,
                   case when r.rolcreaterole then 'createrole' end,
                   case when r.rolcreatedb then 'createdb' end,
                   case when r.rolreplication then 'replication' end,
                   case when r.rolbypassrls then 'bypassrls' end)
        from pg_roles r
        where r.rolname in ('agentchat_owner', 'agentchat_app')
        union all
        select 'schema', s.nspname::text, 0, 0, 'owner ' || s.nspowner::regrole::text from schema_ s
        union all
        select t.kind, t.name, 0, 0,
               'owner ' || t.typowner::regrole::text
                   || case when t.typtype = 'd' then ', ' || format_type(t.typbasetype, t.typtypmod) else '' end
                   || case when t.typnotnull then ' not null' else '' end
                   || coalesce(' default ' || t.typdefault, '')
        from types t
        union all
        select t.kind, t.name, 1, e.enumsortorder::integer, 'value ' || quote_literal(e.enumlabel)
        from types t
        join pg_enum e on e.enumtypid = t.oid
        union all
        select r.kind, r.name, 0, 0,
               'owner ' || r.relowner::regrole::text
                   || case r.relpersistence when 'p' then '' else ', persistence ' || r.relpersistence::text end
                   || case when r.relkind in ('r', 'p')
                       then ', row security ' || case when r.relrowsecurity then 'enabled' else 'disabled' end
                           || case when r.relforcerowsecurity then ' and forced' else '' end
                       else '' end
                   || coalesce(', with ' || array_to_string(r.reloptions, ', '), '')
        from relations r
        union all
        select r.kind, r.name, 1, a.attnum::integer,
               'column ' || quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                   || case when a.attnotnull then ' not null' else '' end
                   || case a.attidentity when '' then '' else ' identity ' || a.attidentity::text end
                   || case when d.oid is null then '' when a.attgenerated = '' then ' default '
                          else ' generated (' || a.attgenerated::text || ') ' end
                   || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
        from relations r
        join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
        union all
        select o.kind, o.name, 2, 0,
               'constraint ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid)
                   || case when k.convalidated then '' else ' not validated' end
        from pg_constraint k
        join (
            select r.oid, r.kind, r.name from relations r
            union all
            select t.oid, t.kind, t.name from types t
        ) o on o.oid in (k.conrelid, k.contypid)
        where k.contype <> 'n'
        union all
        select r.kind, r.name, 3, 0,
               pg_get_indexdef(i.indexrelid) || case when i.indisvalid then '' else ' (invalid)' end
        from relations r
        join pg_index i on i.indrelid = r.oid
        union all
        select r.kind, r.name, 4, 0, pg_get_triggerdef(g.oid) || ' (enabled: ' || g.tgenabled::text || ')'
        from relations r
        join pg_trigger g on g.tgrelid = r.oid and not g.tgisinternal
        union all
        select r.kind, r.name, 5, 0,
               'policy ' || quote_ident(p.polname)
                   || case when p.polpermissive then '' else ' as restrictive' end
                   || case p.polcmd when 'r' then ' for select' when 'a' then ' for insert'
                          when 'w' then ' for update' when 'd' then ' for delete' else ' for all' end
                   || ' to ' || (
                       select string_agg(case o when 0 then 'public' else o::regrole::text end, ', ' order by o)
                       from unnest(p.polroles) as o)
                   || coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
                   || coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
        from relations r
        join pg_policy p on p.polrelid = r.oid
        union all
        select r.kind, r.name, 6, 0, 'as ' || pg_get_viewdef(r.oid)
        from relations r
        where r.relkind in ('v', 'm')
        union all
        select f.kind, f.name, 0, 0,
               concat_ws(', ',
                   'owner ' || f.proowner::regrole::text,
                   'language ' || l.lanname,
                   case f.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
                   case f.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
                   case when f.proisstrict then 'strict' end,
                   case when f.proleakproof then 'leakproof' end,
                   case when f.prosecdef then 'security definer' end)
        from functions f
        join pg_language l on l.oid = f.prolang
        union all
        select f.kind, f.name, 1, 0, 'arguments ' || pg_get_function_arguments(f.oid)
        from functions f
        where f.pronargs > 0 or f.proallargtypes is not null
        union all
        select f.kind, f.name, 1, 1, 'returns ' || pg_get_function_result(f.oid)
        from functions f
        where f.prokind <> 'p'
        union all
        select f.kind, f.name, 1, 2, 'set ' || setting
        from functions f, unnest(f.proconfig) as setting
        union all
        select f.kind, f.name, 1, 3, 'body md5 ' || md5(coalesce(pg_get_function_sqlbody(f.oid), f.prosrc))
        from functions f
        union all
        select p.kind, p.name, 7, 0,
               'granted to ' || case g.grantee when 0 then 'public' else g.grantee::regrole::text end || ': '
                   || string_agg(
                       lower(g.privilege_type) || case when g.is_grantable then ' (grantable)' else '' end, ', '
                       order by g.privilege_type collate "C")
        from privileges p, aclexplode(p.acl) as g
        where g.privilege_type <> 'MAINTAIN'
        group by p.kind, p.name, g.grantee
        union all
        select r.kind, r.name, 7, a.attnum::integer,
               'granted on ' || quote_ident(a.attname)
                   || ' to ' || case g.grantee when 0 then 'public' else g.grantee::regrole::text end || ': '
                   || string_agg(
                       lower(g.privilege_type) || case when g.is_grantable then ' (grantable)' else '' end, ', '
                       order by g.privilege_type collate "C")
        from relations r
        join pg_attribute a on a.attrelid = r.oid and a.attacl is not null, aclexplode(a.attacl) as g
        group by r.kind, r.name, a.attname, a.attnum, g.grantee
        union all
        select 'default privileges', 'of ' || d.defaclrole::regrole::text, 0, 0,
               'on ' || case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences'
                      when 'f' then 'functions' when 'T' then 'types' else 'schemas' end
                   || coalesce(' in ' || nullif(d.defaclnamespace, 0)::regnamespace::text, '')
                   || ' to ' || case g.grantee when 0 then 'public' else g.grantee::regrole::text end || ': '
                   || string_agg(lower(g.privilege_type), ', ' order by g.privilege_type collate "C")
        from pg_default_acl d, aclexplode(d.defaclacl) as g
        where d.defaclrole = (select nspowner from schema_) and g.privilege_type <> 'MAINTAIN'
        group by d.defaclrole, d.defaclobjtype, d.defaclnamespace, g.grantee
    )
select f.kind, f.name, f.fact
from facts f
order by f.kind collate "C", f.name collate "C", f.part, f.place, f.fact collate "C";
