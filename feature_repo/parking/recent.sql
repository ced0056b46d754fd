-- Each car park at each of its readings: how full it is, was, and was at the time to be predicted a day and a week ago.
-- The source repeats readings and sometimes counts below zero: the first are one row, the second none.
WITH clean AS (
  SELECT park, capacity, try_divide(occupancy, capacity) AS rate,
         to_timestamp(last_updated) AS clock,
         max(recorded_at) AS recorded_at
  FROM readings
  WHERE occupancy >= 0
  GROUP BY park, capacity, occupancy, last_updated
),
-- Spans are counted on the wall clock, on which people park: a day ago is the same hour also when the clocks change.
around AS (
  SELECT *,
         collect_list(struct(clock, rate)) OVER (PARTITION BY park ORDER BY clock RANGE BETWEEN INTERVAL 40 MINUTES PRECEDING AND INTERVAL 20 MINUTES PRECEDING) AS half_hour,
         collect_list(struct(clock, rate)) OVER (PARTITION BY park ORDER BY clock RANGE BETWEEN INTERVAL 70 MINUTES PRECEDING AND INTERVAL 50 MINUTES PRECEDING) AS hour,
         collect_list(struct(clock, rate)) OVER (PARTITION BY park ORDER BY clock RANGE BETWEEN INTERVAL 1396 MINUTES PRECEDING AND INTERVAL 1364 MINUTES PRECEDING) AS day,
         collect_list(struct(clock, rate)) OVER (PARTITION BY park ORDER BY clock RANGE BETWEEN INTERVAL 10036 MINUTES PRECEDING AND INTERVAL 10004 MINUTES PRECEDING) AS week
  FROM clean
)
SELECT park,
       to_utc_timestamp(clock, 'Europe/London') AS event_timestamp,
       recorded_at AS created_timestamp,
       capacity,
       CAST(rate AS FLOAT) AS rate,
       -- of the readings in a span the one nearest to its middle
       CAST(array_min(transform(half_hour, r -> struct(abs(unix_timestamp(clock) - 1800 - unix_timestamp(r.clock)), r.rate))).rate AS FLOAT) AS rate_30min_ago,
       CAST(array_min(transform(hour, r -> struct(abs(unix_timestamp(clock) - 3600 - unix_timestamp(r.clock)), r.rate))).rate AS FLOAT) AS rate_60min_ago,
       CAST(array_min(transform(day, r -> struct(abs(unix_timestamp(clock) - 82800 - unix_timestamp(r.clock)), r.rate))).rate AS FLOAT) AS rate_yesterday,
       CAST(array_min(transform(week, r -> struct(abs(unix_timestamp(clock) - 601200 - unix_timestamp(r.clock)), r.rate))).rate AS FLOAT) AS rate_last_week
FROM around
