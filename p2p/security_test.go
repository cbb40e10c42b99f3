package p2p

import (
	"context"
	"crypto/rand"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

func identity(t *testing.T) (crypto.PrivKey, peer.ID) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, id
}

// Two machines connect whatever their clocks say. The certificates are made now; inside the bubble it is the
// year 2000, and then 2200.
func TestClocksDoNotMatter(t *testing.T) {
	keyA, _ := identity(t)
	keyB, idB := identity(t)
	muxers := []protocol.ID{yamux.ID}
	made := func(key crypto.PrivKey) sec.SecureTransport {
		tr, err := newTimeless(key, muxers)
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	a, b := made(keyA), made(keyB)
	stock, err := libp2ptls.New(libp2ptls.ID, keyB, nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		if err := shake(a, stock, idB); err == nil {
			t.Error("libp2p's own certificate is taken before its time: this file is no longer needed")
		}
		if err := shake(a, b, idB); err != nil {
			t.Errorf("in %d: %v", time.Now().Year(), err)
		}
		time.Sleep(200 * 366 * 24 * time.Hour)
		if err := shake(a, b, idB); err != nil {
			t.Errorf("in %d: %v", time.Now().Year(), err)
		}
	})
}

func shake(client, server sec.SecureTransport, id peer.ID) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	x, y := net.Pipe()
	defer x.Close()
	defer y.Close()
	served := make(chan error, 1)
	go func() {
		c, err := server.SecureInbound(ctx, y, "")
		if err == nil {
			_, err = c.Write([]byte("x"))
		}
		served <- err
	}()
	c, err := client.SecureOutbound(ctx, x, id)
	if err != nil {
		y.Close()
		<-served
		return err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return err
	}
	return <-served
}

func TestWrongKeyIsRefused(t *testing.T) {
	keyA, _ := identity(t)
	keyB, _ := identity(t)
	_, other := identity(t)
	a, err := newTimeless(keyA, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newTimeless(keyB, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := shake(a, b, other); err == nil {
		t.Error("a peer with another key was taken")
	}
}
