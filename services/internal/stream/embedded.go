package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// DefaultSyncInterval is how often an embedded server flushes stored messages to the
// disk: what a power cut may take. A killed process loses nothing.
const DefaultSyncInterval = time.Second

// lockFile keeps a second process off the directory.
const lockFile = "carillon.lock"

// startTimeout bounds how long a server that has recovered its streams may take to
// accept connections.
const startTimeout = 10 * time.Second

// EmbeddedOptions configure an embedded NATS server.
type EmbeddedOptions struct {
	// Dir holds the streams and the lock file; it is made if need be. Required.
	Dir string
	// SyncInterval is how often the disk is flushed; 0 is DefaultSyncInterval.
	SyncInterval time.Duration
	// Logger receives the server's warnings and errors, its notices at debug level.
	// Required.
	Logger *slog.Logger
}

// Embedded is a NATS server with JetStream inside this process. It opens no port:
// only a Store of the same process reaches it.
type Embedded struct {
	server *server.Server
	dir    string
	lock   *os.File
	close  sync.Once
}

// StartEmbedded starts a server and returns once its streams are recovered. Where the
// last server in the directory did not stop by Close and the machine has been started
// since, the streams begin an epoch after what was kept; where the directory is a copy
// of another they begin one in which no older position is valid. The
// error names the directory when that is in use by another process or cannot be
// written.
func StartEmbedded(o EmbeddedOptions) (_ *Embedded, err error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil || o.Dir == "" {
		return nil, fmt.Errorf("embedded NATS: %q is not a directory", o.Dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded NATS: the data directory %s cannot be made: %w", dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()

	log := &serverLog{logger: o.Logger}
	s, err := newServer(dir, o.SyncInterval, log)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS in %s: %w", dir, err)
	}
	if err := openEpochs(s, dir, log); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS in %s: %w", dir, err)
	}
	return &Embedded{server: s, dir: dir, lock: lock}, nil
}

func newServer(dir string, syncInterval time.Duration, log *serverLog) (*server.Server, error) {
	if syncInterval <= 0 {
		syncInterval = DefaultSyncInterval
	}
	s, err := server.NewServer(&server.Options{
		ServerName:   "carillon-embedded",
		DontListen:   true,
		NoSigs:       true,
		JetStream:    true,
		StoreDir:     dir,
		SyncInterval: syncInterval,
		// The namespaces say how much is kept. The server's own limit, three quarters
		// of the free disk, would refuse to reserve their sum on a small disk.
		JetStreamMaxStore:      math.MaxInt64 / 2,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, err
	}
	s.SetLoggerV2(log, false, false, false)
	s.Start() // without a listener it returns when the streams are recovered
	if fatal := log.fatal(); fatal != "" {
		err = errors.New(fatal)
	} else if !s.ReadyForConnections(startTimeout) {
		err = fmt.Errorf("not ready within %v", startTimeout)
	}
	if err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, err
	}
	return s, nil
}

// lockDir takes the lock of a directory, which also proves that it can be written.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: the data directory %s cannot be written: %w", dir, err)
	}
	if err := tryLock(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("embedded NATS: the data directory %s is in use by another process (%s is locked: %w)", dir, path, err)
	}
	return f, nil
}

// InProcessConn makes a connection to the server; nats.go calls it.
func (e *Embedded) InProcessConn() (net.Conn, error) { return e.server.InProcessConn() }

// Close stops the server, waits for its goroutines, puts everything on the disk, notes
// that, and gives up the directory. Close the stores first. Calls after the first do
// nothing.
func (e *Embedded) Close() (err error) {
	e.close.Do(func() {
		e.server.Shutdown()
		e.server.WaitForShutdown()
		if err = flushTree(e.dir); err == nil { // before it is called clean, what it holds must be safe
			err = writeDirState(e.dir, true)
		}
		err = errors.Join(err, e.lock.Close())
	})
	return err
}
