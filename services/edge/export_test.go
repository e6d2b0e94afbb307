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

// RecheckAll checks all sessions again and returns when it is done.
func (e *Edge) RecheckAll() { e.recheckAll(e.context, e.all()) }
