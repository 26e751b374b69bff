-- Every entry once: what was sent again has the same insertId.
SELECT *
FROM `PROJECT.klyra_audit.klyra_com_audit`
WHERE timestamp >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 DAY)
QUALIFY ROW_NUMBER() OVER (PARTITION BY insertId ORDER BY receiveTimestamp) = 1
