package edge

// QueuedBelow tells whether every connection has fewer bytes than that waiting.
func (e *Edge) QueuedBelow(bytes int) bool {
	for _, s := range e.all() {
		if !s.socket.Below(bytes) {
			return false
		}
	}
	return true
}
