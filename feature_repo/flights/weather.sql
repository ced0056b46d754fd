-- Hourly weather at each origin, known one hour after the observation.
SELECT origin,
       recorded_at AS event_timestamp,
       recorded_at AS created_timestamp,
       CAST(temp AS FLOAT) AS temp, CAST(dewp AS FLOAT) AS dewp, CAST(humid AS FLOAT) AS humid,
       CAST(wind_dir AS FLOAT) AS wind_dir, CAST(wind_speed AS FLOAT) AS wind_speed, CAST(wind_gust AS FLOAT) AS wind_gust,
       CAST(precip AS FLOAT) AS precip, CAST(pressure AS FLOAT) AS pressure, CAST(visib AS FLOAT) AS visib
FROM weather
