package crash

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Machine starts from the disks of one log, one after the other. Its methods are for one goroutine.
type Machine struct {
	log     *Log
	dir     string // where disks are mounted
	file    *os.File
	device  *loop
	content blocks // the disk before event at
	at      int
	mounted bool
}

// NewMachine makes a machine. In dir, which is best in memory, it keeps the disk and the directory at which it is mounted.
func NewMachine(l *Log, dir string) (*Machine, error) {
	m := &Machine{log: l, dir: filepath.Join(dir, "mounted"), content: maps.Clone(l.base)}
	err := os.Mkdir(m.dir, 0o700)
	if err == nil {
		m.file, err = os.OpenFile(filepath.Join(dir, "disk.img"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err == nil {
		err = m.file.Truncate(l.FS.Size)
	}
	if err == nil {
		m.device, err = attach(m.file)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a machine: %w", err), m.Close())
	}
	return m, nil
}

// Start puts the state on the disk, mounts it, and gives the directory. The states must come in the order of [Log.States].
// Before the next one, Stop is to be called.
func (m *Machine) Start(s State) (dir string, err error) {
	if err := m.write(s); err != nil {
		return "", fmt.Errorf("writing a disk: %w", err)
	}
	if err := m.log.FS.mount(m.device.path, m.dir); err != nil {
		return "", err
	}
	m.mounted = true
	return m.dir, nil
}

// write makes the file the disk of a state.
func (m *Machine) write(s State) error {
	if s.durable < m.at {
		return errors.New("states are out of order")
	}
	for ; m.at < s.durable; m.at++ {
		m.content.write(m.log.events[m.at].off, m.log.events[m.at].data)
	}
	disk := maps.Clone(m.content)
	for i := s.durable; i < s.end; i++ {
		e := &m.log.events[i]
		size, cut := s.lost[i]
		if !cut {
			size = len(e.data)
		}
		disk.write(e.off, e.data[:size])
	}
	for _, size := range []int64{0, m.log.FS.Size} {
		if err := m.file.Truncate(size); err != nil {
			return err
		}
	}
	for n, block := range disk {
		if _, err := m.file.WriteAt(block[:], n*blockSize); err != nil {
			return err
		}
	}
	return m.device.forget()
}

// Stop unmounts the disk.
func (m *Machine) Stop() error {
	if !m.mounted {
		return nil
	}
	m.mounted = false
	return unmount(m.dir)
}

// Keep writes the disk of a state, as it was before it was mounted, and the end of the kernel's log to files in a directory. The machine must
// be stopped.
func (m *Machine) Keep(s State, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	messages := make([]byte, 1<<20)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, messages)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "kernel.log"), messages[:n], 0o644)
	}
	return errors.Join(err, m.write(s), copySparse(filepath.Join(dir, "disk.img"), m.file))
}

func copySparse(name string, src *os.File) error {
	dst, err := os.Create(name)
	if err != nil {
		return err
	}
	defer dst.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := src.ReadAt(buf, off)
		if !isZero(buf[:n]) {
			if _, err := dst.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		if err == io.EOF {
			return dst.Truncate(off)
		}
		if err != nil {
			return err
		}
	}
}

// Close gives up the machine.
func (m *Machine) Close() error {
	err := m.Stop()
	if m.device != nil {
		err = errors.Join(err, m.device.Close())
	}
	if m.file != nil {
		err = errors.Join(err, m.file.Close())
	}
	return err
}
