package secure

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is the least time between two looks at the files.
	lookEvery = time.Second
	// maxFileBytes bounds a file: some thousand certificates.
	maxFileBytes = 4 << 20
)

// source is a file that was read.
type source struct {
	name string
	text []byte
}

// watched is what was made of files, and looks at them again when it is asked for.
type watched struct {
	logger *slog.Logger
	names  []string // empty: no such file
	parse  func([]source) (*material, error)

	current atomic.Pointer[material]

	mu         sync.Mutex // held by who looks; the others go on with what there is
	looked     time.Time
	read       []source // what current was made of
	complained string   // what the logger was told last
}

// load reads the files for the first time.
func (w *watched) load() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looked = time.Now()
	read, err := w.readAll()
	if err != nil {
		return err
	}
	m, err := w.parse(read)
	if err != nil {
		return err
	}
	w.read = read
	w.current.Store(m)
	w.checkExpiry(m)
	return nil
}

// now returns what is made of the files.
func (w *watched) now() *material {
	if w.mu.TryLock() {
		defer w.mu.Unlock()
		if time.Since(w.looked) >= lookEvery {
			w.looked = time.Now()
			w.look()
		}
	}
	return w.current.Load()
}

// look reads the files again. What is read is compared, not when the files changed:
// it is little, and those who replace files do so in many ways.
func (w *watched) look() {
	read, err := w.readAll()
	if err == nil && slices.EqualFunc(read, w.read, func(a, b source) bool { return bytes.Equal(a.text, b.text) }) {
		w.checkExpiry(w.current.Load())
		return
	}
	var m *material
	if err == nil {
		m, err = w.parse(read)
	}
	if err != nil { // perhaps half of them are replaced
		w.complain(slog.LevelError, "new TLS files cannot be used; the old ones stay", "error", err)
		return
	}
	w.read, w.complained = read, ""
	w.current.Store(m)
	w.logger.Info("new TLS files are used", "files", w.given(), "notAfter", notAfter(m))
	w.checkExpiry(m)
}

// checkExpiry tells of a certificate that is not valid now.
func (w *watched) checkExpiry(m *material) {
	leaf := m.leaf()
	switch now := time.Now(); {
	case leaf == nil:
	case now.After(leaf.NotAfter):
		w.complain(slog.LevelWarn, "a TLS certificate has expired", "file", w.names[0], "notAfter", leaf.NotAfter)
	case now.Before(leaf.NotBefore):
		w.complain(slog.LevelWarn, "a TLS certificate is not valid yet", "file", w.names[0], "notBefore", leaf.NotBefore)
	}
}

// complain logs, once until something else is to be said.
func (w *watched) complain(level slog.Level, text string, args ...any) {
	if said := text + fmt.Sprint(args...); said != w.complained {
		w.complained = said
		w.logger.Log(context.Background(), level, text, args...)
	}
}

func (w *watched) given() []string {
	return slices.DeleteFunc(slices.Clone(w.names), func(name string) bool { return name == "" })
}

func (w *watched) readAll() ([]source, error) {
	read := make([]source, len(w.names))
	for i, name := range w.names {
		if name == "" {
			continue
		}
		var err error
		if read[i], err = readFile(name); err != nil {
			return nil, err
		}
	}
	return read, nil
}

func notAfter(m *material) string {
	if leaf := m.leaf(); leaf != nil {
		return leaf.NotAfter.String()
	}
	return ""
}

func readFile(name string) (source, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return source{}, fmt.Errorf("%s does not exist", name)
	}
	var text []byte
	if err == nil {
		defer file.Close()
		text, err = io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err // the name stands before it
	}
	switch {
	case err != nil:
		return source{}, fmt.Errorf("%s cannot be read: %w", name, err)
	case len(text) > maxFileBytes:
		return source{}, fmt.Errorf("%s has more than %d bytes", name, maxFileBytes)
	}
	return source{name, text}, nil
}

// parsePair makes a certificate of its chain and its key.
func parsePair(chain, key source) (*material, error) {
	certificate, err := tls.X509KeyPair(chain.text, key.text)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no certificate and its key: %w", chain.name, key.name, err)
	}
	return &material{certificate: &certificate}, nil
}

// parseAuthorities takes every certificate of a file. One that cannot be read is an
// error: x509.CertPool would leave it out in silence.
func parseAuthorities(s source) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for rest := s.text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s holds a certificate that cannot be read: %w", s.name, err)
		}
		pool.AddCert(certificate)
		found = true
	}
	if !found {
		return nil, fmt.Errorf("%s holds no certificate in PEM", s.name)
	}
	return pool, nil
}
