-- The prices of the product, and the jobs that are expected to run. Both are data: change them
-- with UPDATE.

SET LOCAL ROLE mana_credits_owner;

INSERT INTO credits.sync_prices (billing_interval, months, price)
VALUES ('monthly', 1, 30), ('quarterly', 3, 90), ('yearly', 12, 360);

INSERT INTO credits.operation_prices
(operation, name, description, category, app, cost, per, sort_order)
VALUES
('ai_chat_gpt4', 'AI chat: GPT-4', 'One message to GPT-4', 'ai', 'chat', 5, 1, 10),
('ai_chat_claude', 'AI chat: Claude', 'One message to Claude', 'ai', 'chat', 5, 1, 20),
('ai_chat_gemini', 'AI chat: Gemini', 'One message to Gemini', 'ai', 'chat', 2, 1, 30),
('ai_chat_qwen', 'AI chat: Qwen', 'One message to Qwen', 'ai', 'chat', 2, 1, 40),
('ai_chat_ollama', 'AI chat: Ollama', 'Ten messages to a model of our own', 'ai', 'chat', 1, 10, 50),
('ai_image_generation', 'Picture', 'One generated picture', 'images', 'picture', 10, 1, 60),
('ai_image_upscale', 'Larger picture', 'One picture scaled up', 'images', 'picture', 5, 1, 70),
('ai_research_quick', 'Quick research', 'One quick research', 'research', 'research', 5, 1, 80),
('ai_research_deep', 'Deep research', 'One deep research', 'research', 'research', 25, 1, 90),
('ai_food_analysis', 'Food analysis', 'One meal analysed', 'ai', 'food', 3, 1, 100),
('ai_deck_generation', 'Deck of cards', 'One generated deck', 'ai', 'cards', 20, 1, 110),
('ai_card_generation', 'Card', 'One generated card', 'ai', 'cards', 2, 1, 120),
('ai_quote_explanation', 'Quote explained', 'One quote explained', 'ai', 'quotes', 2, 1, 130),
('ai_plant_analysis', 'Plant analysis', 'One plant analysed', 'ai', 'plants', 2, 1, 140),
('ai_guide_generation', 'Guide', 'One generated guide', 'ai', 'guides', 5, 1, 150),
('ai_context_generation', 'Context', 'One generated context', 'ai', 'context', 2, 1, 160),
('ai_smart_scheduling', 'Smart scheduling', 'One schedule', 'ai', 'calendar', 2, 1, 170),
('ai_suggestions', 'Suggestions', 'One set of suggestions', 'ai', NULL, 2, 1, 180),
('ai_enrichment', 'Enrichment', 'One item enriched', 'ai', NULL, 2, 1, 190),
('cloud_sync', 'Cloud Sync', 'One month of Cloud Sync', 'premium', 'sync', 30, 1, 200),
('bulk_import', 'Bulk import', 'Fifty items imported', 'premium', NULL, 1, 50, 210),
('pdf_export', 'PDF export', 'One exported document', 'premium', NULL, 1, 1, 220),
('premium_theme', 'Premium theme', 'One theme', 'premium', NULL, 3, 1, 230);

INSERT INTO credits.jobs (job, description, late_after)
VALUES
('recurring-charge', 'Charges the Cloud Sync subscriptions that are due', '3 hours'),
('gift-expiry', 'Returns expired gift codes to their creators', '2 hours'),
('reservation-expiry', 'Gives expired holds back', '30 minutes'),
('charge-notices', 'Tells users of a charge that is coming and not covered', '30 hours'),
('ledger-check', 'Checks the money rules over the whole database', '30 hours'),
('pruning', 'Clears the payloads of old Stripe events and old job runs', '30 hours');

RESET ROLE;
