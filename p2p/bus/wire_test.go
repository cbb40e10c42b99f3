package bus

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

func TestSocketsOf(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"unix:", nil},
		{"unix:path=", nil},
		{"unix:path=/run/bus", []string{"/run/bus"}},
		{"unix:path=/run/bus,guid=0123", []string{"/run/bus"}},
		{"unix:guid=0123,abstract=/tmp/x", []string{"@/tmp/x"}},
		{"unix:path=/run/a%20b%2c", []string{"/run/a b,"}},
		{"unix:path=/run/%zz;unix:path=/b", []string{"/b"}},
		{"tcp:host=10.0.0.1,port=1;unix:path=/b", []string{"/b"}},
		{"tcp:host=10.0.0.1,port=1", nil},
		{"autolaunch:", nil},
		{"unix:tmpdir=/tmp", nil},
		{"unix:path=/" + strings.Repeat("x", 200), nil},
	} {
		got, err := socketsOf(c.in)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("socketsOf(%q) = %v, %v", c.in, got, err)
		}
	}
}

func FuzzSocketsOf(f *testing.F) {
	f.Add("unix:path=/run/dbus/system_bus_socket")
	f.Add("unix:abstract=%2ftmp,guid=1;tcp:host=x;unix:path=a=b")
	f.Fuzz(func(t *testing.T, list string) {
		got, err := socketsOf(list)
		if (err == nil) != (len(got) > 0) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
		for _, name := range got {
			if len(name) == 0 || len(name) > 108 {
				t.Errorf("%q: the name %q", list, name)
			}
		}
	})
}

// message is size bytes that begin like a message.
func message(order binary.ByteOrder, fields, body uint32) []byte {
	head := make([]byte, headSize+(fields+7)/8*8+body)
	head[0] = 'l'
	if order == binary.BigEndian {
		head[0] = 'B'
	}
	order.PutUint32(head[4:], body)
	order.PutUint32(head[12:], fields)
	return head
}

// Over a wire come the messages of usual length, whole, and nothing of the others.
func TestWire(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	short := message(binary.LittleEndian, 1, 3)
	fits := message(binary.BigEndian, 8, maxMessage-headSize-8)
	long := message(binary.LittleEndian, 9, maxMessage-headSize-16+1)
	longer := message(binary.LittleEndian, 100, 1<<20)
	go func() {
		for _, m := range [][]byte{short, long, fits, longer, short} {
			theirs.Write(m)
		}
		theirs.Close()
	}()
	w := &wire{Conn: ours, begun: true}
	got, err := io.ReadAll(w)
	if want := slices.Concat(short, fits, short); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d, %v", len(got), len(want), err)
	}
}

func TestWireGreets(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		io.WriteString(theirs, "OK 01234\r\n")
		io.ReadFull(theirs, make([]byte, len("BEGIN\r\n")))
		theirs.Write(message(binary.LittleEndian, 0, 0))
		io.WriteString(theirs, "no message, but long enough for one\r\n")
	}()
	w := &wire{Conn: ours}
	buf := make([]byte, 100)
	if n, err := w.Read(buf); string(buf[:n]) != "OK 01234\r\n" || err != nil {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if _, err := w.Write([]byte("BEGIN\r\n")); err != nil {
		t.Error(err)
	}
	if n, err := w.Read(buf); n != headSize || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if n, err := w.Read(buf); n != 0 || err == nil {
		t.Errorf("got %q", buf[:n])
	}
}

func FuzzMessageSize(f *testing.F) {
	f.Add(message(binary.LittleEndian, 9, 5))
	f.Add(message(binary.BigEndian, 0, 0))
	f.Fuzz(func(t *testing.T, head []byte) {
		if len(head) < headSize {
			return
		}
		size, err := messageSize(head[:headSize])
		if (err == nil) != (size >= headSize) {
			t.Errorf("%x: %d, %v", head, size, err)
		}
	})
}
