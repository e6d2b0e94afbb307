package herd

// Leave closes the connections of clients, by their numbers from one on.
func (h *Herd) Leave(from int) {
	left := make(chan struct{})
	h.do(func() {
		defer close(left)
		for _, c := range h.clients[from:] {
			h.close(c)
		}
	})
	<-left
}
