-- Why an attempt to send a webhook got no answer: words for people, free of secrets.
ALTER TABLE verifyd.webhook_attempts ADD COLUMN cause text;
