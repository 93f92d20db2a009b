-- All that a switchover needs to know of a member, in one round trip, on a primary and on a replica. One row with one JSON object.
WITH here AS MATERIALIZED (
  SELECT pg_is_in_recovery() AS replica,
         CASE WHEN pg_is_in_recovery() THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')
              ELSE pg_current_wal_lsn() END AS position,
         clock_timestamp() AS now
)
SELECT json_build_object(
  'version', current_setting('server_version'),
  'replica', replica,
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  -- Right after a promotion the control file still shows the old timeline; the name of the log segment shows the new one.
  'timeline', CASE WHEN replica
    THEN coalesce((SELECT nullif(received_tli, 0) FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint()))
    ELSE ('x' || substr(pg_walfile_name(position), 1, 8))::bit(32)::int END,
  'position', position,
  'replayed', CASE WHEN replica THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE position END,
  'replay_paused', CASE WHEN replica THEN pg_is_wal_replay_paused() ELSE false END,
  'sender', (SELECT json_build_object('host', sender_host, 'port', sender_port)
               FROM pg_stat_wal_receiver WHERE status = 'streaming'),
  -- Also while nothing streams. A message carries the sender's time and the end of its log; the view keeps the sender's time at which that
  -- end last moved. Differences of one clock each, so that clocks which disagree spoil nothing.
  'receiver', (SELECT json_build_object(
      'host', sender_host, 'port', sender_port,
      'last_message_ms', extract(epoch FROM now - last_msg_receipt_time) * 1000,
      'told', latest_end_lsn,
      'told_age_ms', extract(epoch FROM (now - last_msg_receipt_time) + greatest(last_msg_send_time - latest_end_time, '0')) * 1000
    ) FROM pg_stat_wal_receiver),
  -- It may hold a password: of its content only host and port leave the server. Every keyword is read with its value, quoted or not, so
  -- that nothing inside a value is taken for a keyword.
  'set_to_follow', (
    WITH told AS MATERIALIZED (SELECT current_setting('primary_conninfo') AS text),
    pairs AS (
      SELECT n, pair[1] AS keyword, regexp_replace(regexp_replace(pair[2], '^''(.*)''$', '\1'), '\\(.)', '\1', 'g') AS value
        FROM told, regexp_matches(text, '(\w+)\s*=\s*(''(?:[^''\\]|\\.)*''|(?:[^\s''\\]|\\.)*)', 'g')
             WITH ORDINALITY AS found(pair, n)
       WHERE text !~ '^postgres(ql)?://'),
    place AS (SELECT substring(text, '^postgres(?:ql)?://(?:[^/?#@]*@)?([^/?#]*)') AS text FROM told)
    SELECT json_build_object(
        'hosts', coalesce(
          (SELECT value FROM pairs WHERE keyword = 'host' ORDER BY n DESC LIMIT 1),
          (SELECT value FROM pairs WHERE keyword = 'hostaddr' ORDER BY n DESC LIMIT 1),
          (SELECT string_agg(substring(host, '^\[?([^][]*?)\]?(?::\d*)?$'), ',' ORDER BY n)
             FROM place, regexp_split_to_table(text, ',') WITH ORDINALITY AS one(host, n)), ''),
        'ports', coalesce(
          (SELECT value FROM pairs WHERE keyword = 'port' ORDER BY n DESC LIMIT 1),
          (SELECT string_agg(coalesce(substring(host, ':(\d+)$'), ''), ',' ORDER BY n)
             FROM place, regexp_split_to_table(text, ',') WITH ORDINALITY AS one(host, n))))),
  'replicas', (SELECT coalesce(json_agg(json_build_object(
      'name', application_name,
      'address', host(client_addr),
      'pid', pid,
      'streaming', state = 'streaming',
      'synchronous', sync_state IN ('sync', 'quorum'),
      'lag_bytes', greatest(position - coalesce(replay_lsn, '0/0'), 0),
      'lag_ms', CASE WHEN replay_lsn >= position THEN 0 ELSE extract(epoch FROM replay_lag) * 1000 END,
      'silence_ms', CASE WHEN flush_lsn < position THEN extract(epoch FROM now - reply_time) * 1000 END
    ) ORDER BY application_name, pid), '[]') FROM pg_stat_replication),
  'slots', (SELECT coalesce(json_agg(json_build_object(
      'name', slot_name, 'logical', slot_type = 'logical', 'active', active,
      'retained', greatest(coalesce(position - restart_lsn, 0), 0)
    ) ORDER BY slot_name), '[]') FROM pg_replication_slots),
  'clients', (SELECT coalesce(json_agg(json_build_object(
      'application', application, 'user', login, 'address', address, 'count', n, 'ports', ports) ORDER BY application, login, address), '[]')
    FROM (SELECT coalesce(application_name, '') AS application, coalesce(usename, '') AS login, host(client_addr) AS address,
                 count(*) AS n, coalesce(json_agg(client_port ORDER BY client_port) FILTER (WHERE client_port > 0), '[]') AS ports
            FROM pg_stat_activity
           -- What has just connected cannot be compared with what poolers say at another moment.
           WHERE backend_type = 'client backend' AND backend_start < now - interval '1 second'
             AND NOT (application_name = 'handover' AND usename = current_user)
           GROUP BY 1, 2, 3) AS alike),
  'long_transactions', (SELECT coalesce(json_agg(json_build_object(
      'pid', pid, 'application', coalesce(application_name, ''), 'state', coalesce(state, ''),
      'age_ms', extract(epoch FROM now - xact_start) * 1000) ORDER BY xact_start), '[]')
    FROM pg_stat_activity
   WHERE backend_type = 'client backend' AND now - xact_start > interval '1 second'),
  'settings', (SELECT json_object_agg(name, current_setting(name)) FROM unnest(ARRAY[
      'archive_mode', 'default_transaction_read_only', 'hot_standby', 'max_connections', 'max_locks_per_transaction',
      'max_prepared_transactions', 'max_replication_slots', 'max_slot_wal_keep_size', 'max_standby_streaming_delay', 'max_wal_senders',
      'max_worker_processes', 'primary_slot_name', 'recovery_min_apply_delay', 'recovery_target_timeline', 'restart_after_crash', 'synchronous_commit', 'wal_level', 'wal_log_hints',
      'data_checksums', 'wal_retrieve_retry_interval', 'wal_sender_timeout']) AS name),
  -- What an operator has written into postgresql.conf is not ours, whatever its value.
  'quick_retry', EXISTS (SELECT FROM pg_settings WHERE name = 'wal_retrieve_retry_interval'
      AND sourcefile LIKE '%/postgresql.auto.conf' AND current_setting(name) = '20ms'),
  -- It may hold a password: never its content.
  'follows_set', current_setting('primary_conninfo') <> '',
  'synchronous_names', current_setting('synchronous_standby_names'),
  -- Who starts and promotes servers by himself: what Patroni, repmgr and pg_auto_failover leave in the settings.
  'manager', CASE
    WHEN (SELECT count(*) FROM pg_settings WHERE source = 'command line'
            AND name IN ('cluster_name', 'max_prepared_transactions', 'wal_level')) = 3 THEN 'Patroni'
    WHEN current_setting('shared_preload_libraries') ~ '(^|[ ,"/])repmgr' THEN 'repmgr'
    WHEN EXISTS (SELECT FROM pg_settings WHERE sourcefile LIKE '%/postgresql-auto-failover%.conf') THEN 'pg_auto_failover'
    ELSE (SELECT 'Patroni' FROM pg_stat_activity WHERE application_name LIKE 'Patroni%' LIMIT 1) END,
  'prepared_transactions', (SELECT count(*) FROM pg_prepared_xacts),
  'archive_backlog', CASE WHEN current_setting('archive_mode') = 'off' THEN 0
    ELSE (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') END,
  'missing', (SELECT coalesce(json_agg(what), '[]') FROM (VALUES
      ('ALTER SYSTEM on synchronous_standby_names', has_parameter_privilege('synchronous_standby_names', 'ALTER SYSTEM')),
      ('ALTER SYSTEM on primary_conninfo', has_parameter_privilege('primary_conninfo', 'ALTER SYSTEM')),
      ('ALTER SYSTEM on primary_slot_name', has_parameter_privilege('primary_slot_name', 'ALTER SYSTEM')),
      ('ALTER SYSTEM on wal_retrieve_retry_interval', has_parameter_privilege('wal_retrieve_retry_interval', 'ALTER SYSTEM')),
      ('EXECUTE on pg_reload_conf()', has_function_privilege('pg_reload_conf()', 'EXECUTE')),
      ('EXECUTE on pg_promote(boolean, integer)', has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE')),
      ('membership in pg_checkpoint', pg_has_role('pg_checkpoint', 'USAGE')),
      ('REPLICATION', (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user))
    ) AS needed(what, granted) WHERE NOT granted),
  -- Only for members whose power goes or comes back.
  'missing_to_release', (SELECT coalesce(json_agg(what), '[]') FROM (VALUES
      ('ALTER SYSTEM on synchronous_standby_names', has_parameter_privilege('synchronous_standby_names', 'ALTER SYSTEM')),
      ('ALTER SYSTEM on max_slot_wal_keep_size', has_parameter_privilege('max_slot_wal_keep_size', 'ALTER SYSTEM')),
      ('EXECUTE on pg_reload_conf()', has_function_privilege('pg_reload_conf()', 'EXECUTE'))
    ) AS needed(what, granted) WHERE NOT granted)
)
FROM here
