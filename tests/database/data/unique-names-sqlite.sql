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
CREATE TABLE auth_user (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
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
	UNIQUE (username)
)
CREATE INDEX auth_user_email_lower ON auth_user (lower(email))
CREATE UNIQUE INDEX auth_user_email_unique ON auth_user (lower(email)) WHERE email != ''
CREATE INDEX auth_user_username_lower ON auth_user (lower(username))
CREATE UNIQUE INDEX auth_user_username_unique ON auth_user (lower(username)) WHERE username != ''
CREATE TABLE auth_user_groups (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	user_id INTEGER NOT NULL,
	group_id INTEGER NOT NULL,
	FOREIGN KEY(user_id) REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED,
	FOREIGN KEY(group_id) REFERENCES auth_group (id) DEFERRABLE INITIALLY DEFERRED
)
CREATE INDEX auth_user_groups_group_id_97559544 ON auth_user_groups (group_id)
CREATE INDEX auth_user_groups_user_id_6a12ed8b ON auth_user_groups (user_id)
CREATE UNIQUE INDEX auth_user_groups_user_id_group_id_94350c0c_uniq ON auth_user_groups (user_id, group_id)
CREATE TABLE auth_user_user_permissions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	user_id INTEGER NOT NULL,
	permission_id INTEGER NOT NULL,
	FOREIGN KEY(user_id) REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED,
	FOREIGN KEY(permission_id) REFERENCES auth_permission (id) DEFERRABLE INITIALLY DEFERRED
)
CREATE INDEX auth_user_user_permissions_permission_id_1fbb5f2c ON auth_user_user_permissions (permission_id)
CREATE INDEX auth_user_user_permissions_user_id_a95ead1b ON auth_user_user_permissions (user_id)
CREATE UNIQUE INDEX auth_user_user_permissions_user_id_permission_id_14a6b632_uniq ON auth_user_user_permissions (user_id, permission_id)
CREATE TABLE auth_session (
	key_hash VARCHAR(64) NOT NULL,
	public_id VARCHAR(32) NOT NULL,
	user_id INTEGER,
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
CREATE INDEX auth_session_expires ON auth_session (expires)
CREATE INDEX auth_session_user_id ON auth_session (user_id)
CREATE TABLE auth_token (
	token_hash VARCHAR(64) NOT NULL,
	purpose VARCHAR(32) NOT NULL,
	subject VARCHAR(64) NOT NULL,
	binding VARCHAR(64) NOT NULL,
	data TEXT NOT NULL,
	expires BIGINT NOT NULL,
	PRIMARY KEY (token_hash)
)
CREATE INDEX auth_token_expires ON auth_token (expires)
CREATE INDEX auth_token_subject ON auth_token (subject)
CREATE TABLE auth_throttle (
	key_hash VARCHAR(64) NOT NULL,
	failures INTEGER NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (key_hash)
)
CREATE INDEX auth_throttle_until ON auth_throttle (until)
