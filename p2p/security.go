package p2p

import (
	"context"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// timeless is libp2p's TLS security (libp2p specification "tls", v1.0) with a certificate that is valid at any
// time. libp2p's own is valid from an hour before it is made, so a laptop whose clock says 1970 would refuse
// every neighbour whose clock is right. The certificate proves nothing but the possession of a key: its dates
// protect nobody.
type timeless struct {
	identity *libp2ptls.Identity
	self     peer.ID
	muxers   []string
}

var _ sec.SecureTransport = (*timeless)(nil)

func newTimeless(key crypto.PrivKey, muxers []protocol.ID) (*timeless, error) {
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	template, err := timelessCertificate()
	if err != nil {
		return nil, err
	}
	identity, err := libp2ptls.NewIdentity(key, libp2ptls.WithCertTemplate(template))
	if err != nil {
		return nil, err
	}
	t := &timeless{identity: identity, self: self}
	for _, m := range muxers {
		t.muxers = append(t.muxers, string(m))
	}
	return t, nil
}

// timelessCertificate is the template of a certificate. Its end is RFC 5280's (4.1.2.5) for "never".
func timelessCertificate() (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{SerialNumber: serial.String()},
		NotBefore:    time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}, nil
}

// ID implements sec.SecureTransport: on the wire this is libp2p's TLS.
func (t *timeless) ID() protocol.ID { return libp2ptls.ID }

// SecureInbound implements sec.SecureTransport. The dialler's order of muxers counts.
func (t *timeless) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	config, key := t.identity.ConfigForPeer(p)
	config.NextProtos = append(slices.Clone(t.muxers), config.NextProtos...)
	config.GetConfigForClient = func(hello *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
		for _, proto := range hello.SupportedProtos {
			if slices.Contains(t.muxers, proto) {
				config.NextProtos = []string{proto}
				break
			}
		}
		return config, nil
	}
	return t.handshake(ctx, insecure, stdtls.Server(insecure, config), key)
}

// SecureOutbound implements sec.SecureTransport.
func (t *timeless) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	config, key := t.identity.ConfigForPeer(p)
	config.NextProtos = append(slices.Clone(t.muxers), config.NextProtos...)
	return t.handshake(ctx, insecure, stdtls.Client(insecure, config), key)
}

// handshake also turns a panic in parsing a stranger's certificate into an error.
func (t *timeless) handshake(ctx context.Context, insecure net.Conn, conn *stdtls.Conn, keys <-chan crypto.PubKey) (_ sec.SecureConn, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in TLS handshake: %v", r)
		}
		if err != nil {
			insecure.Close()
		}
	}()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	var key crypto.PubKey
	select {
	case key = <-keys: // the handshake has put it there
	default:
	}
	if key == nil {
		return nil, errors.New("TLS handshake gave no key")
	}
	remote, err := peer.IDFromPublicKey(key)
	if err != nil {
		return nil, err
	}
	muxer := conn.ConnectionState().NegotiatedProtocol
	if !slices.Contains(t.muxers, muxer) {
		muxer = "" // agreed upon later, by who does not know early negotiation
	}
	return &secured{Conn: conn, self: t.self, remote: remote, key: key, state: network.ConnectionState{
		StreamMultiplexer: protocol.ID(muxer), Security: libp2ptls.ID, UsedEarlyMuxerNegotiation: muxer != ""}}, nil
}

// secured is one connection after the handshake.
type secured struct {
	*stdtls.Conn
	self, remote peer.ID
	key          crypto.PubKey
	state        network.ConnectionState
}

var _ sec.SecureConn = (*secured)(nil)

// LocalPeer implements sec.SecureConn.
func (c *secured) LocalPeer() peer.ID { return c.self }

// RemotePeer implements sec.SecureConn.
func (c *secured) RemotePeer() peer.ID { return c.remote }

// RemotePublicKey implements sec.SecureConn.
func (c *secured) RemotePublicKey() crypto.PubKey { return c.key }

// ConnState implements sec.SecureConn.
func (c *secured) ConnState() network.ConnectionState { return c.state }
