CREATE TABLE auth_content_type (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	app_label VARCHAR(100) NOT NULL,
	model VARCHAR(100) NOT NULL
)
CREATE UNIQUE INDEX auth_content_type_app_label_model_uniq ON auth_content_type (app_label, model)
CREATE TABLE auth_permission (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	content_type_id INTEGER NOT NULL,
	codename VARCHAR(100) NOT NULL,
	name VARCHAR(255) NOT NULL,
	FOREIGN KEY(content_type_id) REFERENCES auth_content_type (id) DEFERRABLE INITIALLY DEFERRED
)
CREATE INDEX auth_permission_content_type_id_2f476e4b ON auth_permission (content_type_id)
CREATE UNIQUE INDEX auth_permission_content_type_id_codename_01ab375a_uniq ON auth_permission (content_type_id, codename)
CREATE TABLE auth_group (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	name VARCHAR(150) NOT NULL,
	UNIQUE (name)
)
CREATE TABLE auth_group_permissions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	group_id INTEGER NOT NULL,
	permission_id INTEGER NOT NULL,
	FOREIGN KEY(group_id) REFERENCES auth_group (id) DEFERRABLE INITIALLY DEFERRED,
	FOREIGN KEY(permission_id) REFERENCES auth_permission (id) DEFERRABLE INITIALLY DEFERRED
)
CREATE INDEX auth_group_permissions_group_id_b120cbf9 ON auth_group_permissions (group_id)
CREATE UNIQUE INDEX auth_group_permissions_group_id_permission_id_0cd325b0_uniq ON auth_group_permissions (group_id, permission_id)
CREATE INDEX auth_group_permissions_permission_id_84c5c92e ON auth_group_permissions (permission_id)
CREATE TABLE shop_customer (
	id CHAR(32) NOT NULL,
	password VARCHAR(128) NOT NULL,
	last_login DATETIME,
	is_superuser bool NOT NULL,
	username VARCHAR(150) NOT NULL,
	first_name VARCHAR(150) NOT NULL,
	last_name VARCHAR(150) NOT NULL,
	email VARCHAR(254) NOT NULL,
	is_staff bool NOT NULL,
	is_active bool NOT NULL,
	date_joined DATETIME NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (username)
)
CREATE INDEX shop_customer_email_lower ON shop_customer (lower(email))
CREATE INDEX shop_customer_username_lower ON shop_customer (lower(username))
CREATE TABLE shop_customer_groups (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	customer_id CHAR(32) NOT NULL,
	group_id INTEGER NOT NULL,
	FOREIGN KEY(customer_id) REFERENCES shop_customer (id) DEFERRABLE INITIALLY DEFERRED,
	FOREIGN KEY(group_id) REFERENCES auth_group (id) DEFERRABLE INITIALLY DEFERRED
)
CREATE INDEX shop_customer_groups_group_id ON shop_customer_groups (group_id)
CREATE UNIQUE INDEX shop_customer_groups_uniq ON shop_customer_groups (customer_id, group_id)
CREATE INDEX shop_customer_groups_user_id ON shop_customer_groups (customer_id)
CREATE TABLE shop_customer_user_permissions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	customer_id CHAR(32) NOT NULL,
	permission_id INTEGER NOT NULL,
	FOREIGN KEY(customer_id) REFERENCES shop_customer (id) DEFERRABLE INITIALLY DEFERRED,
	FOREIGN KEY(permission_id) REFERENCES auth_permission (id) DEFERRABLE INITIALLY DEFERRED
)
CREATE INDEX shop_customer_user_permissions_permission_id ON shop_customer_user_permissions (permission_id)
CREATE UNIQUE INDEX shop_customer_user_permissions_uniq ON shop_customer_user_permissions (customer_id, permission_id)
CREATE INDEX shop_customer_user_permissions_user_id ON shop_customer_user_permissions (customer_id)
CREATE TABLE shop_customer_auth_session (
	key_hash VARCHAR(64) NOT NULL,
	public_id VARCHAR(32) NOT NULL,
	user_id CHAR(32),
	data TEXT NOT NULL,
	created BIGINT NOT NULL,
	last_seen BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	address VARCHAR(45) NOT NULL,
	user_agent VARCHAR(255) NOT NULL,
	version BIGINT DEFAULT '0' NOT NULL,
	PRIMARY KEY (key_hash),
	UNIQUE (public_id)
)
CREATE INDEX shop_customer_auth_session_expires ON shop_customer_auth_session (expires)
CREATE INDEX shop_customer_auth_session_user_id ON shop_customer_auth_session (user_id)
CREATE TABLE shop_customer_auth_token (
	token_hash VARCHAR(64) NOT NULL,
	purpose VARCHAR(32) NOT NULL,
	subject VARCHAR(64) NOT NULL,
	binding VARCHAR(64) NOT NULL,
	data TEXT NOT NULL,
	expires BIGINT NOT NULL,
	PRIMARY KEY (token_hash)
)
CREATE INDEX shop_customer_auth_token_expires ON shop_customer_auth_token (expires)
CREATE INDEX shop_customer_auth_token_subject ON shop_customer_auth_token (subject)
CREATE TABLE auth_throttle (
	key_hash VARCHAR(64) NOT NULL,
	failures INTEGER NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (key_hash)
)
CREATE INDEX auth_throttle_until ON auth_throttle (until)
