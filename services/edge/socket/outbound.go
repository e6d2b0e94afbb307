package socket

import (
	"context"
	"net"
)

// Send writes a frame if nothing waits before it and the system takes it at once, else
// queues it; it never waits. ErrFull means that it did neither; net.ErrClosed that the
// socket is closing. A frame may be several, which go together or not at all.
func (s *Socket) Send(f Frame) error { return s.SendWithin(f, s.options.MaxQueueBytes) }

// SendWithin is Send with another bound of the queue, for frames that must leave room
// for others.
func (s *Socket) SendWithin(f Frame, bytes int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return net.ErrClosed
	}
	if s.corked || !s.sendNow(f) {
		return s.push(f, bytes)
	}
	return nil
}

// sendNow writes what the system takes of a frame at once, unless something waits or is
// being written; it tells whether it has begun with it. The rest goes before all else. The
// caller holds mu, and the socket is not ending: nobody closes the connection before.
func (s *Socket) sendNow(f Frame) bool {
	if s.fd == noFD || s.bytes > 0 {
		return false
	}
	n := writeNow(s.fd, f)
	if n == 0 {
		return false
	}
	if n < len(f) {
		s.rest, s.bytes = f[n:], len(f)-n
		s.startWriting()
	}
	return true
}

// Queue is Send of one of many frames: it only queues, so that they leave together.
func (s *Socket) Queue(f Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return net.ErrClosed
	}
	return s.push(f, s.options.MaxQueueBytes)
}

// Queued is how many bytes are queued.
func (s *Socket) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Below tells whether fewer bytes than that are queued.
func (s *Socket) Below(bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes < bytes
}

// WaitBelow waits until fewer bytes than that are queued, so that a long replay goes no
// faster than its reader. Errors: net.ErrClosed and ctx's.
func (s *Socket) WaitBelow(ctx context.Context, bytes int) error {
	for {
		s.mu.Lock()
		if s.ending != nil {
			s.mu.Unlock()
			return net.ErrClosed
		}
		if s.bytes < bytes {
			s.mu.Unlock()
			return nil
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-s.Done():
			return net.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ping sends a ping.
func (s *Socket) Ping() error { return s.Send(pingFrame) }

// push queues a frame within a bound and sees to it that somebody writes; the caller
// holds mu.
func (s *Socket) push(f Frame, bytes int) error {
	if s.bytes > 0 && s.bytes+len(f) > bytes {
		return ErrFull
	}
	s.queue = append(s.queue, f)
	s.bytes += len(f)
	s.startWriting()
	return nil
}

// startWriting begins a writer goroutine unless there is one, or nothing may be
// written yet; an idle socket has none. The caller holds mu.
func (s *Socket) startWriting() {
	if s.writing || (s.corked && s.ending == nil) || (s.bytes == 0 && s.ending == nil) {
		return
	}
	s.writing = true
	s.options.Go(s.write)
}

// Cork makes frames wait until Uncork.
func (s *Socket) Cork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = true
}

// Uncork sends a frame ahead of all that were queued since Cork, then those. The
// frame is not subject to the queue's bound.
func (s *Socket) Uncork(first Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.corked = false
	if s.ending != nil {
		return
	}
	if s.sendNow(first) {
		return
	}
	s.queue = append(net.Buffers{first}, s.queue...)
	s.bytes += len(first)
	s.startWriting()
}

// write empties the queue, several frames in one system call, then closes if Close
// was called.
func (s *Socket) write() {
	for {
		s.mu.Lock()
		if s.corked && s.ending == nil {
			s.writing = false // Uncork begins anew
			s.mu.Unlock()
			return
		}
		batch, size, end := s.queue, s.bytes, s.ending
		if s.rest != nil {
			batch = append(net.Buffers{s.rest}, batch...)
		}
		s.queue, s.rest = nil, nil
		if len(batch) == 0 {
			s.writing = end != nil // the last writer stays the last
			s.mu.Unlock()
			if end != nil {
				s.finish(*end)
			}
			return
		}
		s.mu.Unlock()

		err := s.wire.writeAll(batch)
		s.mu.Lock()
		s.bytes -= size
		if s.room != nil {
			close(s.room)
			s.room = nil
		}
		if err != nil {
			s.queue = nil
			if s.ending == nil {
				s.ending = &ending{}
			}
		}
		s.mu.Unlock()
		if err != nil {
			s.release()
			return
		}
	}
}
