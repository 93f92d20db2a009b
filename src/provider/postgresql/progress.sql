-- What a member is and how far it has come, and nothing else: asked while clients wait, where `facts.sql` would cost them milliseconds.
-- One row with one JSON object of the same form; what was not asked is empty.
WITH here AS MATERIALIZED (
  SELECT pg_is_in_recovery() AS replica,
         CASE WHEN pg_is_in_recovery() THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')
              ELSE pg_current_wal_lsn() END AS position
)
SELECT json_build_object(
  'version', current_setting('server_version'),
  'replica', replica,
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'timeline', CASE WHEN replica
    THEN coalesce((SELECT nullif(received_tli, 0) FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint()))
    ELSE ('x' || substr(pg_walfile_name(position), 1, 8))::bit(32)::int END,
  'position', position,
  'replayed', CASE WHEN replica THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE position END,
  'replay_paused', false, 'sender', NULL, 'receiver', NULL, 'set_to_follow', NULL, 'replicas', '[]'::json, 'slots', '[]'::json, 'clients', '[]'::json,
  'long_transactions', '[]'::json, 'settings', '{}'::json, 'quick_retry', false, 'follows_set', false, 'synchronous_names', '',
  'manager', NULL, 'prepared_transactions', 0, 'archive_backlog', 0, 'missing', '[]'::json,
  'missing_to_release', '[]'::json
)
FROM here
