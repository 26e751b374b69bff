-- A view of entries by their own names, every entry once.
CREATE OR REPLACE VIEW `PROJECT.klyra_audit.entries` AS
SELECT
  timestamp,
  jsonPayload.id AS id,
  jsonPayload.event_type AS event_type,
  jsonPayload.actor.type AS actor_type,
  jsonPayload.actor.id AS actor_id,
  jsonPayload.actor.name AS actor_name,
  jsonPayload.resource.type AS resource_type,
  jsonPayload.resource.id AS resource_id,
  jsonPayload.action AS action,
  jsonPayload.status AS status,
  jsonPayload.metadata.client_ip AS client_ip,
  jsonPayload.klyra.organization AS organization_id,
  jsonPayload.klyra.log AS log,
  CAST(jsonPayload.klyra.index AS INT64) AS index
FROM `PROJECT.klyra_audit.klyra_com_audit`
WHERE jsonPayload.klyra.leaf IS NOT NULL
QUALIFY ROW_NUMBER() OVER (PARTITION BY insertId ORDER BY receiveTimestamp) = 1
