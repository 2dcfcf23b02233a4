package e2e_test

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/registry/oci"
)

const (
	// cutSize is how large a blob is of which the upload is cut, in bytes, cutAt
	// after how much of it, and cutLost what may be lost with the connection.
	cutSize = 48 << 20
	cutAt   = 40 << 20
	cutLost = 7 << 20
)

// TestCutUploads cuts the upload of a blob to real registries. Those that can go
// on get the rest, the others the whole blob; all have the right one at the end.
func TestCutUploads(t *testing.T) {
	t.Parallel()
	for kind, goesOn := range map[string]bool{
		"embedded": true, "distribution 3": true,
		"gitea": false, "distribution 2": false,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			y := yards[kind](t)
			before := cutBefore(t, y.host())
			as := func(host string) *oci.Registry {
				return oci.New(oci.Config{Host: credential.Host(host), Transport: transport.New(transport.Config{}), Login: func(context.Context) (credential.Login, error) {
					return credential.Login{Username: y.username, Secret: credential.NewSecret(y.password)}, nil
				}})
			}
			raw := make([]byte, cutSize)
			_, _ = crand.Read(raw)
			blob := image.Blob{Digest: digest.FromBytes(raw), Size: cutSize}
			const path = owner + "/cut"
			opened := 0
			got, err := as(before.host).WriteBlob(t.Context(), path, blob, "", func(context.Context) (io.ReadCloser, error) {
				opened++
				return rewindable{bytes.NewReader(raw)}, nil
			})
			if err != nil || got != image.Uploaded {
				t.Fatalf("the blob was %q, %v", got, err)
			}
			sent := before.sent.Load()
			t.Logf("%d bytes were sent of a blob of %d that was cut after %d", sent, cutSize, cutAt)
			if on := sent < cutSize+cutLost && opened == 1; on != goesOn || before.cuts.Load() != 1 {
				t.Errorf("after %d cuts the upload went on: %v, want %v; the blob was opened %d times", before.cuts.Load(), on, goesOn, opened)
			}
			body, err := as(y.host()).Blob(t.Context(), path, blob.Digest)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = body.Close() }()
			if there, err := io.ReadAll(body); err != nil || !bytes.Equal(there, raw) {
				t.Errorf("the blob came back with %d bytes, %v", len(there), err)
			}
		})
	}
}

// rewindable is a source that can go back.
type rewindable struct{ io.ReadSeeker }

func (rewindable) Close() error { return nil }

// cutter is a proxy of connections that resets one of them once.
type cutter struct {
	host string
	sent atomic.Int64 // bytes, by clients
	cuts atomic.Int64
}

// cutBefore puts one before a registry.
func cutBefore(t *testing.T, host string) *cutter {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	c := &cutter{host: listener.Addr().String()}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", host)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(client, server)
				_, _ = client.Close(), server.Close()
			}()
			go c.carry(server, client)
		}
	}()
	return c
}

// carry hands on what a client sends, until it ends or is to be cut: as a firewall
// that has forgotten the connection does, with a reset to both.
func (c *cutter) carry(server, client net.Conn) {
	defer func() { _, _ = client.Close(), server.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if sent := c.sent.Add(int64(n)); sent > cutAt && c.cuts.CompareAndSwap(0, 1) {
			_ = client.(*net.TCPConn).SetLinger(0)
			_ = server.(*net.TCPConn).SetLinger(0)
			return
		}
		if _, failed := server.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}
