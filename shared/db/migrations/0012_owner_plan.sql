-- The owner that the first run makes has the largest plan; those of former versions were made with the smallest. A
-- migration runs once: whoever sets another plan later isn't overruled.
UPDATE tenants t SET plan = 'ENTERPRISE' FROM users u
WHERE u.id = t.personal_user_id AND u.email = 'owner@localhost' AND u.is_platform_administrator AND t.plan = 'FREE';
