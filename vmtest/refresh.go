// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// keyring has the keys by which Debian signs its lists.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// aptState is an apt of its own for one suite: own sources, own lists, own
// caches, in the cache directory. From the machine's apt it has only how to
// download: proxies and the like.
type aptState struct {
	suite, dir string
}

func newAptState(suite string) (*aptState, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return &aptState{suite, filepath.Join(cache, "apt", suite)}, nil
}

func (a *aptState) file(name string) string { return filepath.Join(a.dir, name) }

// known tells whether there are lists from an earlier update.
func (a *aptState) known() bool {
	lists, _ := filepath.Glob(a.file("lists/*_Packages*"))
	return len(lists) > 0
}

// update downloads the lists of the suite, and verifies Debian's signature.
func (a *aptState) update(ctx context.Context) error {
	archive, err := archiveOf(ctx, a.suite)
	if err != nil {
		return err
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("%w: `apt-get install debian-archive-keyring` brings the keys of Debian", err)
	}
	for _, dir := range []string{"lists/partial", "cache/archives/partial", "empty"} {
		if err := os.MkdirAll(a.file(dir), 0o755); err != nil {
			return err
		}
	}
	source := fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, archive, a.suite)
	if err := os.WriteFile(a.file("sources.list"), []byte(source), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(a.file("status"), nil, 0o644); err != nil {
		return err
	}
	config := fmt.Sprintf(`Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "%[1]s/empty";
Dir::Etc::preferencesparts "%[1]s/empty";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
APT::Sandbox::User "root";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
`, a.dir)
	if err := os.WriteFile(a.file("apt.conf"), []byte(config), 0o644); err != nil {
		return err
	}
	if _, err := a.run(ctx, "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"); err != nil {
		return fmt.Errorf("read the lists of %s: %w", a.suite, err)
	}
	return nil
}

func (a *aptState) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.file("apt.conf"), "LC_ALL=C")
	out, err := cmd.Output()
	return out, withStderr(err)
}

// newest returns the newest kernel that matches the patterns of a locked one.
func (a *aptState) newest(ctx context.Context, k *LockedKernel) (*LockedKernel, error) {
	if len(k.Pattern) == 0 {
		return nil, fmt.Errorf("kernel %s has no pattern in the lock", k.ID)
	}
	first, err := patternRegexp(k.Pattern[0])
	if err != nil {
		return nil, err
	}
	names, err := a.run(ctx, "apt-cache", "search", "--names-only", first.String())
	if err != nil {
		return nil, fmt.Errorf("search %s: %w", a.suite, err)
	}
	var best *LockedKernel
	for line := range strings.Lines(string(names)) {
		name, _, _ := strings.Cut(line, " ")
		match := first.FindStringSubmatch(name)
		if match == nil {
			continue
		}
		found, err := a.describe(ctx, k, match[1])
		if err != nil {
			continue // a part of it is not there (yet)
		}
		if best == nil || compareVersions(found.Version, best.Version) > 0 {
			best = found
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%s has no package %s", a.suite, k.Pattern[0])
	}
	return best, nil
}

// patternRegexp makes the star of a pattern a group.
func patternRegexp(pattern string) (*regexp.Regexp, error) {
	before, after, found := strings.Cut(pattern, "*")
	if !found {
		return nil, fmt.Errorf("pattern %q has no star", pattern)
	}
	return regexp.Compile("^" + regexp.QuoteMeta(before) + `([0-9][0-9a-z.+~]*)` + regexp.QuoteMeta(after) + "$")
}

var errIncomplete = errors.New("not all packages of the kernel have this version")

func (a *aptState) describe(ctx context.Context, k *LockedKernel, star string) (*LockedKernel, error) {
	found := &LockedKernel{ID: k.ID, Suite: k.Suite, Pattern: k.Pattern}
	for _, pattern := range k.Pattern {
		name := strings.Replace(pattern, "*", star, 1)
		text, err := a.run(ctx, "apt-cache", "show", name)
		if err != nil {
			return nil, err
		}
		p, version, err := parsePackage(text)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", name, err)
		}
		if found.Version == "" {
			found.Version = version
			_, found.Release, _ = strings.Cut(strings.TrimPrefix(name, "linux-"), "-")
		}
		if version != found.Version {
			return nil, errIncomplete
		}
		found.Packages = append(found.Packages, p)
	}
	return found, found.check()
}

// parsePackage reads the first paragraph of what `apt-cache show` prints.
func parsePackage(text []byte) (p LockedPackage, version string, err error) {
	paragraph, _, _ := bytes.Cut(text, []byte("\n\n"))
	for line := range strings.Lines(string(paragraph)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ": ")
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			version = value
		case "Filename":
			p.File = value
		case "SHA256":
			p.SHA256 = value
		case "Size":
			if p.Size, err = strconv.ParseInt(value, 10, 64); err != nil {
				return p, "", fmt.Errorf("read size: %w", err)
			}
		}
	}
	if p.Name == "" || version == "" {
		return p, "", errors.New("no such package")
	}
	return p, version, nil
}

// Newest returns the newest kernel of the same line in the same suite, which
// is k itself if there is no newer one. With the network, the suite's lists are
// read anew; without, those of the last time, if any: then it may be nil.
func Newest(ctx context.Context, k *LockedKernel, network bool) (*LockedKernel, error) {
	state, err := newAptState(k.Suite)
	if err != nil {
		return nil, err
	}
	unlock, err := lockCache(ctx, "apt-"+k.Suite)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if network {
		if err := state.update(ctx); err != nil {
			return nil, err
		}
	}
	if !state.known() {
		return nil, nil
	}
	newest, err := state.newest(ctx, k)
	if err != nil {
		return nil, err
	}
	if compareVersions(newest.Version, k.Version) <= 0 {
		return k, nil
	}
	return newest, nil
}

// compareVersions orders versions of Debian packages: deb-version(7).
func compareVersions(a, b string) int {
	epochA, restA := splitEpoch(a)
	epochB, restB := splitEpoch(b)
	upstreamA, revisionA := splitRevision(restA)
	upstreamB, revisionB := splitRevision(restB)
	return cmp.Or(
		compareDigits(epochA, epochB),
		comparePart(upstreamA, upstreamB),
		comparePart(revisionA, revisionB),
	)
}

func splitEpoch(v string) (epoch, rest string) {
	if epoch, rest, found := strings.Cut(v, ":"); found {
		return epoch, rest
	}
	return "0", v
}

func splitRevision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// comparePart compares stretches of other characters and of digits in turn.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		var otherA, otherB, digitsA, digitsB string
		otherA, a = cutWhile(a, func(c byte) bool { return !isDigit(c) })
		otherB, b = cutWhile(b, func(c byte) bool { return !isDigit(c) })
		if order := compareOther(otherA, otherB); order != 0 {
			return order
		}
		digitsA, a = cutWhile(a, isDigit)
		digitsB, b = cutWhile(b, isDigit)
		if order := compareDigits(digitsA, digitsB); order != 0 {
			return order
		}
	}
	return 0
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func cutWhile(s string, is func(byte) bool) (head, tail string) {
	for i := range len(s) {
		if !is(s[i]) {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// compareOther has the tilde before the end, the end before letters, and
// letters before everything else.
func compareOther(a, b string) int {
	rank := func(s string, i int) int {
		switch {
		case i >= len(s):
			return 0
		case s[i] == '~':
			return -1
		case s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z':
			return int(s[i])
		}
		return int(s[i]) + 256
	}
	for i := range max(len(a), len(b)) {
		if order := cmp.Compare(rank(a, i), rank(b, i)); order != 0 {
			return order
		}
	}
	return 0
}

func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// Replace puts a kernel in the place of the one of the same id.
func (l *Lock) Replace(k *LockedKernel) {
	i := slices.IndexFunc(l.Kernels, func(other LockedKernel) bool { return other.ID == k.ID })
	if i < 0 {
		l.Kernels = append(l.Kernels, *k)
		return
	}
	l.Kernels[i] = *k
}
