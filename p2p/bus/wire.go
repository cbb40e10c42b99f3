package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemBus is where the system bus is unless DBUS_SYSTEM_BUS_ADDRESS says otherwise.
const systemBus = "unix:path=/run/dbus/system_bus_socket"

// maxMessage is how long a message may be; the longest call that makes sense has less than 1 KB.
const maxMessage = 16 << 10

// dial connects to the bus at an address list.
func dial(ctx context.Context, address string) (*wire, error) {
	if address == "" {
		address = os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	}
	if address == "" {
		address = systemBus
	}
	sockets, err := socketsOf(address)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: answerTime}
	for _, name := range sockets {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, "unix", name); err == nil {
			return &wire{Conn: conn}, nil
		}
	}
	return nil, fmt.Errorf("connecting to the system bus: %w", err)
}

// socketsOf reads a D-Bus address list, such as "unix:path=/run/bus;unix:abstract=bus,guid=00". It knows Unix sockets, the only ones
// over which the bus can tell who is who. The names are as package net writes them, abstract ones with an @.
func socketsOf(list string) ([]string, error) {
	var out []string
	for _, address := range strings.Split(list, ";") {
		rest, isUnix := strings.CutPrefix(address, "unix:")
		if !isUnix {
			continue
		}
		for _, pair := range strings.Split(rest, ",") {
			key, value, _ := strings.Cut(pair, "=")
			value, err := url.PathUnescape(value)
			if err != nil || value == "" || len(value) > 107 {
				continue
			}
			switch key {
			case "path":
				out = append(out, value)
			case "abstract":
				out = append(out, "@"+value)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the bus address %.200q names no Unix socket", list)
	}
	return out, nil
}

// wire is a connection to the bus over which no message longer than maxMessage comes in: the library would decode it before anybody
// can refuse it. Being no *net.UnixConn, it takes no file descriptors either, which nobody would close.
type wire struct {
	net.Conn
	answered func() // is called when an answer was sent or dropped, if not nil
	begun    bool   // greeted: from now on there are messages
	frame    []byte // room for a message
	rest     []byte // what is not read of it
}

// Write sends a line of the greeting or one whole message. A bus that does not take it in time is gone.
func (w *wire) Write(p []byte) (int, error) {
	if w.answered != nil && w.begun && len(p) >= headSize && (p[1] == byte(dbus.TypeMethodReply) || p[1] == byte(dbus.TypeError)) {
		defer w.answered()
		if p[2]&byte(dbus.FlagNoReplyExpected) != 0 { // nobody wants it
			return len(p), nil
		}
	}
	if string(p) == "BEGIN\r\n" { // the library's reader of messages starts after this
		w.begun = true
	}
	if err := w.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	return w.Conn.Write(p)
}

// Read reads whole messages, and skips long ones.
func (w *wire) Read(p []byte) (int, error) {
	if !w.begun {
		return w.Conn.Read(p)
	}
	for len(w.rest) == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// headSize is that of the part of a message that says how long the others are.
const headSize = 16

func (w *wire) next() error {
	if w.frame == nil {
		w.frame = make([]byte, maxMessage)
	}
	if _, err := io.ReadFull(w.Conn, w.frame[:headSize]); err != nil {
		return err
	}
	size, err := messageSize(w.frame[:headSize])
	if err != nil {
		return err
	}
	if size > maxMessage {
		_, err := io.CopyN(io.Discard, w.Conn, size-headSize)
		return err
	}
	if _, err := io.ReadFull(w.Conn, w.frame[headSize:size]); err != nil {
		return err
	}
	w.rest = w.frame[:size]
	return nil
}

// messageSize is the length of the message that begins with head.
func messageSize(head []byte) (int64, error) {
	var order binary.ByteOrder = binary.LittleEndian
	switch head[0] {
	case 'l':
	case 'B':
		order = binary.BigEndian
	default:
		return 0, errors.New("the bus sends what is no message")
	}
	body, fields := int64(order.Uint32(head[4:])), int64(order.Uint32(head[12:]))
	return headSize + (fields+7)/8*8 + body, nil
}
