-- What is known of each aircraft; does not change.
SELECT tailnum, recorded_at AS event_timestamp, recorded_at AS created_timestamp, year, seats
FROM planes
