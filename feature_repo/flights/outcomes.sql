-- Labels: how each flight ended. The row belongs to the day on which that became known.
SELECT carrier, flight, origin, dest, tailnum, scheduled_departure, scheduled_arrival_minute, distance,
       recorded_at AS event_timestamp,
       recorded_at AS created_timestamp,
       CAST(arr_delay >= 15 AS INT) AS late_15
FROM arrivals
