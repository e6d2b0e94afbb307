package e2e_test

// The namespaces of the systems that are tested here, each a piece of the list that ends
// their configuration; whose chat has limits or rules of its own says so itself.
const (
	chatNamespace = `
  - name: chat
    history: {max_bytes: 64MiB}
    presence: true
    rules: [{channel: "chat.{rest...}", subscribe: "true", publish: "true"}]`
	userNamespace = `
  - name: user
    history: {max_bytes: 64MiB}
    rules: [{channel: "user.{id}", subscribe: "id == user"}]`
	newsNamespace = `
  - name: news
    history: {max_bytes: 64MiB}
    rules: [{channel: "news.{rest...}", subscribe: "true"}]`
	cursorNamespace = `
  - name: cursor
    ephemeral: true
    rules: [{channel: "cursor.{rest...}", subscribe: "true", publish: "true"}]`
)
