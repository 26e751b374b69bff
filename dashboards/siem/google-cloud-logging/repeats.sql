-- How often entries were delivered more than once, by day and log.
SELECT
  DATE(timestamp) AS day,
  jsonPayload.klyra.log AS log,
  COUNT(*) AS messages,
  COUNT(DISTINCT insertId) AS entries
FROM `PROJECT.klyra_audit.klyra_com_audit`
GROUP BY day, log
ORDER BY day DESC, log
