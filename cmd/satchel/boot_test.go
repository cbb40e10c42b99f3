package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"satchel/store/image/boot"
)

// TestBoot starts a real machine, an emulated one with a Debian kernel and a disk, from its image: it runs version 1, gets version 2 from a
// neighbour over the network and boots into it; the power is cut, the next boot tries it again, its health check fails, and the machine is back on
// version 1 by itself. Then it gets version 3, which stays.
func TestBoot(t *testing.T) {
	pc, pub := newPC(t, false)

	pc.on("get 2")
	pc.expect("runs 1")
	pc.expect("1 is healthy")
	pub.publish("xo-os", "2", pc.tree("2", "echo no lesson opens; exit 1"))
	pc.expect("reboots, with 2 to be tried")
	pc.off()

	pc.on("hang")
	pc.expect("runs 2")
	pc.cut()

	pc.on("")
	pc.expect("runs 2")
	pc.expect("2 is not healthy, reboots")
	pc.off()

	pc.on("get 3")
	pc.expect("runs 1")
	pc.expect("1 is healthy")
	pub.publish("xo-os", "3", pc.tree("3", "true"))
	pc.expect("reboots, with 3 to be tried")
	pc.off()

	for range 2 { // the second time nothing is on trial any more
		pc.on("")
		pc.expect("runs 3")
		pc.expect("3 is healthy")
		pc.off()
	}
	r := pc.record()
	if !strings.HasPrefix(r.Live, "xo-os-1-3-") || !strings.HasPrefix(r.Previous, "xo-os-1-1-") || r.Trial != "" || r.Booted != r.Live ||
		len(r.Failed) != 1 || !strings.HasPrefix(r.Failed[0].ID, "xo-os-1-2-") {
		t.Errorf("in the end the record is\n%s", r.Encode())
	}
	pub.stop()
}

// TestBootLoader starts a machine with UEFI firmware, systemd-boot and a FAT partition: systemd-boot counts the tries of version 2 in the name of its
// entry, also when the power is cut; confirmed, the entry has no counter. Version 3 fails its health check, and its entry is gone.
func TestBootLoader(t *testing.T) {
	pc, pub := newPC(t, true)

	pc.on("get 2")
	pc.expect("runs 1")
	pc.expect("1 is healthy")
	pub.publish("xo-os", "2", pc.tree("2", "true"))
	pc.expect("reboots, with 2 to be tried")
	pc.off()
	pc.entries("1", "2+3")

	pc.on("hang")
	pc.expect("runs 2")
	pc.cut()
	pc.entries("1", "2+2-1")

	pc.on("get 3")
	pc.expect("runs 2")
	pc.expect("2 is healthy")
	pub.publish("xo-os", "3", pc.tree("3", "false"))
	pc.expect("reboots, with 3 to be tried")
	pc.off()
	pc.entries("1", "2", "3+3")

	pc.on("")
	pc.expect("runs 3")
	pc.expect("3 is not healthy, reboots")
	pc.off()
	pc.entries("1", "2")

	pc.on("")
	pc.expect("runs 2")
	pc.expect("2 is healthy")
	pc.off()
	pub.stop()
}

// TestBootCuts pulls the plug again and again, at any moment of fetching, staging, arming, starting and confirming: SATCHEL_CUTS times, or 3. The
// machine always starts, with what was live or with what is on trial, and in the end it gets a version that stays.
func TestBootCuts(t *testing.T) {
	cuts := 3
	fmt.Sscan(os.Getenv("SATCHEL_CUTS"), &cuts)
	pc, pub := newPC(t, false)
	newest := 1
	publish := func() {
		newest++
		pub.publish("xo-os", fmt.Sprint(newest), pc.tree(fmt.Sprint(newest), "true"))
	}
	for i := range cuts {
		if i%3 == 0 {
			publish()
		}
		before := pc.record()
		pc.on(fmt.Sprint("get ", newest))
		ran := pc.hear()
		if r := pc.record(); !pc.isOf(ran, before.Live) && !pc.isOf(ran, before.Trial) {
			t.Fatalf("the machine %s, with the record\n%sand then\n%s", ran, before.Encode(), r.Encode())
		}
		after := rand.N(20 * time.Second) // slept away, for nothing tells the moments that are not planned
		time.Sleep(after)
		t.Logf("cut %d: it %s, and %v later no more", i+1, ran, after.Round(time.Millisecond))
		pc.cut()
	}
	for range 4 { // what was cut too often has failed, and is left
		pc.on("")
		ran := pc.hear()
		pc.expect(strings.TrimPrefix(ran, "runs ") + " is healthy")
		pc.off()
	}
	if r := pc.record(); r.Trial != "" {
		t.Errorf("after whole boots something is on trial:\n%s", r.Encode())
	}
	publish()
	pc.on(fmt.Sprint("get ", newest))
	pc.hear()
	pc.hear()
	pc.expect(fmt.Sprintf("reboots, with %d to be tried", newest))
	pc.off()
	pc.on("")
	pc.expect(fmt.Sprint("runs ", newest))
	pc.expect(fmt.Sprint(newest, " is healthy"))
	pc.off()
	if out, err := exec.Command("e2fsck", "-fn", pc.disk()).CombinedOutput(); err != nil {
		t.Errorf("the file system is broken: %v\n%s", err, out)
	}
	pub.stop()
}

// isOf says whether what the machine says is of the version that a deployment has: versions are numbered like releases here.
func (p *pc) isOf(ran, id string) bool {
	version, _ := strings.CutPrefix(ran, "runs ")
	return strings.HasPrefix(id, "xo-os-1-"+version+"-")
}

// pc is an emulated machine with a disk, on which a home and an image are.
type pc struct {
	t       *testing.T
	s       *school
	m       *machine // it before it has a disk, in a namespace
	dir     string
	modules []string // kernel modules, in the order of loading
	kernel  string
	uefi    bool // its firmware is UEFI, and it has a partition for systemd-boot

	run     *exec.Cmd
	lines   chan string // of the console, that the machine says for us
	console *bytes.Buffer
	ended   chan struct{}
}

// drivers are the kernel modules that the machine needs, in the order of loading.
var drivers = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "failover", "net_failover", "virtio_net",
	"nls_cp437", "nls_ascii", "fat", "vfat"}

// What a machine with UEFI starts with.
const (
	uefiCode    = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	uefiVars    = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	systemdBoot = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

// newPC makes a machine with version 1 on its disk, and a neighbour that published it and runs.
func newPC(t *testing.T, uefi bool) (*pc, *machine) {
	t.Helper()
	s := newSchool(t, 2, "v4", "--product", "xo-os", "--class", "system", "--may", "run")
	if runtime.GOARCH != "amd64" {
		skip(t, "the emulated machine is an amd64 one")
	}
	for name, from := range map[string]string{"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs",
		"mkfs.vfat": "dosfstools", "mcopy": "mtools", uefiCode: "ovmf", systemdBoot: "systemd-boot-efi"} {
		_, err := exec.LookPath(name)
		if filepath.IsAbs(name) {
			_, err = os.Stat(name)
		}
		if err != nil {
			skip(t, "booting needs "+name+", from the package "+from)
		}
	}
	p := &pc{t: t, s: s, m: s.laptops[1], dir: t.TempDir(), uefi: uefi}
	if err := p.findKernel(); err != nil {
		skip(t, "booting needs a kernel, see .ci/tools: "+err.Error())
	}
	sw := s.name + "-sw"
	s.ip("-n", sw, "tuntap", "add", "dev", "pc", "mode", "tap")
	s.ip("-n", sw, "link", "set", "pc", "master", "br0", "up")
	for _, name := range []string{"satchel", "boot-select"} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(p.dir, name), "satchel/cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		s.must(build)
	}
	p.initramfs()
	t.Cleanup(p.cut)
	pub := s.laptops[0]
	pub.start()
	pub.publish("xo-os", "1", p.tree("1", "true"))
	p.install()
	return p, pub
}

// findKernel looks for a kernel with its modules where .ci/tools puts one.
func (p *pc) findKernel() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	top := filepath.Join(cache, "satchel-test", "kernel")
	kernels, _ := filepath.Glob(filepath.Join(top, "boot", "vmlinuz-*"))
	if len(kernels) == 0 {
		return fmt.Errorf("none below %s", top)
	}
	p.kernel = kernels[len(kernels)-1]
	found := map[string]string{}
	err = filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			found[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	for _, name := range drivers {
		if found[name] == "" {
			return errors.Join(err, fmt.Errorf("no module %s below %s", name, top))
		}
		p.modules = append(p.modules, found[name])
	}
	return err
}

// initScript is what starts the machine: all that an initramfs must do.
const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc && mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m; done
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /disk
tree=$(boot-select --entry "$(sed -n 's/.*satchel=\([^ ]*\).*/\1/p' /proc/cmdline)" /disk/image) || exec sh
mount --bind $tree /system && mount -o remount,ro,bind /system
mount --move /disk /system/mnt
[ -b /dev/vdc ] && mount -t vfat /dev/vdc /system/mnt/esp
umount /dev /proc
exec switch_root /system /sbin/init
`

// systemScript is the first process of every version.
const systemScript = `#!/bin/sh
export PATH=/bin HOME=/tmp SATCHEL_HOME=/mnt/home
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
exec >/dev/console 2>&1 </dev/null
version=$(cat /etc/version)
say() { echo "machine: $*"; }
leave() { satchel down; sync; mount -o remount,ro /mnt; reboot -f; }
say runs $version
read order seq </dev/vdb
[ "$order" = hang ] && exec sleep 100000
ip link set lo up; ip addr add 10.77.0.99/24 dev eth0; ip link set eth0 up
satchel up &
until satchel status --json | grep -q '"running":true'; do sleep 0.2; done
if ! satchel confirm --image /mnt/image; then
	say $version is not healthy, reboots
	leave
fi
say $version is healthy
if [ "$order" = get ]; then
	satchel wait xo-os --seq $seq && satchel apply xo-os && say reboots, with $seq to be tried
fi
leave
`

// initramfs packs what the kernel starts with.
func (p *pc) initramfs() {
	p.t.Helper()
	busybox, err := exec.LookPath("busybox")
	p.check(err)
	var a archive
	for _, dir := range []string{"bin", "proc", "dev", "disk", "system", "modules"} {
		a.add(dir, 0o40755, nil)
	}
	a.file(p, "bin/busybox", busybox)
	a.file(p, "bin/boot-select", filepath.Join(p.dir, "boot-select"))
	for i, m := range p.modules {
		a.file(p, fmt.Sprintf("modules/%02d.ko", i), m)
	}
	a.add("init", 0o100755, []byte(initScript))
	a.add("TRAILER!!!", 0, nil)
	p.check(os.WriteFile(filepath.Join(p.dir, "initramfs"), a.Bytes(), 0o644))
}

// archive is a cpio archive of the kind that the kernel reads.
type archive struct{ bytes.Buffer }

func (a *archive) file(p *pc, name, from string) {
	p.t.Helper()
	data, err := os.ReadFile(from)
	p.check(err)
	a.add(name, 0o100755, data)
}

func (a *archive) add(name string, mode int, data []byte) {
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", a.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// tree makes a version of the system, with a health check.
func (p *pc) tree(version, check string) string {
	p.t.Helper()
	top := p.t.TempDir()
	for _, dir := range []string{"bin", "sbin", "etc", "proc", "sys", "dev", "mnt", "tmp", "boot", "health.d"} {
		p.check(os.Mkdir(filepath.Join(top, dir), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	p.check(err)
	for to, from := range map[string]string{"bin/busybox": busybox, "bin/satchel": filepath.Join(p.dir, "satchel"),
		"boot/vmlinuz": p.kernel, "boot/initrd": filepath.Join(p.dir, "initramfs")} {
		data, err := os.ReadFile(from)
		p.check(err)
		p.check(os.WriteFile(filepath.Join(top, to), data, 0o755))
	}
	for _, name := range []string{"sh", "mount", "cat", "grep", "sleep", "ip", "sed", "sync", "reboot", "echo"} {
		p.check(os.Symlink("busybox", filepath.Join(top, "bin", name)))
	}
	for name, text := range map[string]string{"sbin/init": systemScript, "etc/version": version + "\n", "health.d/works": "#!/bin/sh\n" + check + "\n"} {
		p.check(os.WriteFile(filepath.Join(top, name), []byte(text), 0o755))
	}
	return top
}

// install has version 1 live on the disk, as a technician does it: on another machine, below the same path.
func (p *pc) install() {
	p.t.Helper()
	disk := filepath.Join(p.dir, "disk")
	p.check(os.Mkdir(disk, 0o755))
	p.check(os.Rename(p.m.home, filepath.Join(disk, "home")))
	p.m.home, p.m.below = "/mnt/home", disk
	esp := filepath.Join(disk, "esp")
	if p.uefi {
		p.check(os.MkdirAll(filepath.Join(disk, "image"), 0o755))
		p.check(os.WriteFile(filepath.Join(disk, "image", "loader.toml"),
			[]byte("esp = \"/mnt/esp\"\nlinux = \"boot/vmlinuz\"\ninitrd = [\"boot/initrd\"]\noptions = \""+kernelOptions+"\"\n"), 0o644))
		p.check(errors.Join(os.MkdirAll(filepath.Join(esp, "loader"), 0o755), os.MkdirAll(filepath.Join(esp, "EFI/BOOT"), 0o755)))
		boot, err := os.ReadFile(systemdBoot)
		p.check(err)
		p.check(os.WriteFile(filepath.Join(esp, "EFI/BOOT/BOOTX64.EFI"), boot, 0o644))
		vars, err := os.ReadFile(uefiVars)
		p.check(err)
		p.check(os.WriteFile(filepath.Join(p.dir, "vars"), vars, 0o644))
	}
	p.m.run("follow", "xo-os", "--image", "/mnt/image")
	p.m.start()
	p.m.ready("xo-os", 1)
	p.m.run("apply", "xo-os")
	p.m.stop()
	if p.uefi {
		p.empty(p.esp(), 200<<20)
		p.s.must(exec.Command("mkfs.vfat", p.esp()))
		p.s.must(exec.Command("sh", "-c", `mcopy -s -i "$0" "$1"/* ::`, p.esp(), esp))
		p.check(os.RemoveAll(esp))
		p.check(os.Mkdir(esp, 0o755))
	}
	p.empty(p.disk(), 1<<30)
	p.s.must(exec.Command("mke2fs", "-q", "-t", "ext4", "-d", disk, p.disk()))
}

func (p *pc) disk() string { return filepath.Join(p.dir, "disk.img") }
func (p *pc) esp() string  { return filepath.Join(p.dir, "esp.img") }

// empty makes a file of holes.
func (p *pc) empty(name string, size int64) {
	p.t.Helper()
	f, err := os.Create(name)
	p.check(err)
	p.check(errors.Join(f.Truncate(size), f.Close()))
}

const kernelOptions = "console=ttyS0 quiet panic=-1"

// on starts the machine, with an order for its first process.
func (p *pc) on(order string) {
	p.t.Helper()
	orders := filepath.Join(p.dir, "orders")
	p.check(os.WriteFile(orders, fmt.Appendf(nil, "%-511s\n", order), 0o644))
	args := []string{"netns", "exec", p.s.name + "-sw", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "400",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-drive", "file=" + p.disk() + ",if=virtio,format=raw,cache=unsafe", "-drive", "file=" + orders + ",if=virtio,format=raw,readonly=on",
		"-netdev", "tap,id=net,ifname=pc,script=no,downscript=no", "-device", "virtio-net-pci,netdev=net"}
	if p.uefi {
		args = append(args, "-drive", "file="+p.esp()+",if=virtio,format=raw,cache=unsafe",
			"-drive", "file="+uefiCode+",if=pflash,format=raw,readonly=on", "-drive", "file="+filepath.Join(p.dir, "vars")+",if=pflash,format=raw")
	} else {
		args = append(args, "-kernel", p.kernel, "-initrd", filepath.Join(p.dir, "initramfs"), "-append", kernelOptions)
	}
	p.run = exec.Command("ip", args...)
	out, err := p.run.StdoutPipe()
	p.check(err)
	p.run.Stderr = p.run.Stdout
	p.check(p.run.Start())
	p.console, p.lines, p.ended = &bytes.Buffer{}, make(chan string, 100), make(chan struct{})
	go p.listen(out, p.run, p.ended)
}

// listen reads the console until the machine is off.
func (p *pc) listen(out io.Reader, run *exec.Cmd, ended chan struct{}) {
	defer close(ended)
	defer close(p.lines)
	s := bufio.NewScanner(out)
	for s.Scan() {
		line := strings.TrimRight(s.Text(), "\r")
		fmt.Fprintln(p.console, line)
		if _, said, ok := strings.Cut(line, "machine: "); ok {
			p.lines <- said
		}
	}
	run.Wait()
}

// expect waits for the machine to say something, and it must be this.
func (p *pc) expect(want string) {
	p.t.Helper()
	if got := p.hear(); got != want {
		p.cut()
		p.t.Fatalf("the machine says %q, want %q\n%s", got, want, p.console)
	}
	p.t.Logf("the machine %s", want)
}

// hear waits for the machine to say something.
func (p *pc) hear() string {
	p.t.Helper()
	select {
	case got, ok := <-p.lines:
		if ok {
			return got
		}
	case <-time.After(patience):
	}
	p.cut()
	p.t.Fatalf("the machine says nothing\n%s", p.console)
	return ""
}

// off waits until the machine has rebooted, which here means that it stops.
func (p *pc) off() {
	p.t.Helper()
	select {
	case got, ok := <-p.lines:
		if ok {
			p.cut()
			p.t.Fatalf("the machine says %q instead of rebooting\n%s", got, p.console)
		}
		<-p.ended
		p.run = nil
	case <-time.After(patience):
		p.cut()
		p.t.Fatalf("the machine does not reboot\n%s", p.console)
	}
}

// cut pulls the plug.
func (p *pc) cut() {
	if p.run != nil {
		p.run.Process.Kill()
		<-p.ended
		p.run = nil
	}
}

// entries demands that these are the boot loader's entries, 2+3 for version 2 with three tries left.
func (p *pc) entries(want ...string) {
	p.t.Helper()
	var got []string
	for _, line := range strings.Fields(p.s.must(exec.Command("mdir", "-b", "-i", p.esp(), "::loader/entries"))) {
		rest, ok := strings.CutPrefix(line, "::/loader/entries/satchel-xo-os-1-")
		seq, rest, _ := strings.Cut(rest, "-")
		if !ok || len(rest) < 8 {
			p.t.Errorf("entry %s", line)
			continue
		}
		got = append(got, seq+strings.TrimSuffix(rest[8:], ".conf"))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		p.t.Errorf("entries are %q, want %q", got, want)
	}
}

// record is the boot record on the disk, whose journal is replayed first, as the next boot would.
func (p *pc) record() (best boot.Record) {
	p.t.Helper()
	out, err := exec.Command("e2fsck", "-p", "-E", "journal_only", p.disk()).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 1 { // 1: it replayed something
		p.t.Fatalf("replaying the journal: %v\n%s", err, out)
	}
	for slot := range 2 {
		text := p.s.must(exec.Command("debugfs", "-R", "cat /image/"+boot.SlotName(slot), p.disk()))
		if r, err := boot.Parse([]byte(text)); err == nil && r.Generation > best.Generation {
			best = r
		}
	}
	return best
}

func (p *pc) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}
