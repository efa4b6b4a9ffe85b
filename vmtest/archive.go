// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Packages come from where the machine's own apt gets its packages, by apt's
// own means: mirrors, proxies and certificates are as the machine has them.
// Nothing of the machine's apt is changed.

// ArchiveEnv names an environment variable with the URI of Debian's archive,
// for machines whose apt has none. Its security archive is expected beside it,
// under the same name with "-security".
const ArchiveEnv = "WEIR_DEBIAN_ARCHIVE"

// ErrNoArchive means that it is not known where Debian's packages are.
var ErrNoArchive = errors.New("the apt sources of this machine name no Debian archive; set " +
	ArchiveEnv + " to the URI of a mirror of it")

// codenames are those suites by which an archive of Debian is known. (Other
// distributions' apt sources have other ones.)
var codenames = map[string]bool{
	"bullseye": true, "bookworm": true, "trixie": true, "forky": true, "duke": true, "sid": true,
	"oldoldstable": true, "oldstable": true, "stable": true, "testing": true, "unstable": true,
}

// archiveOf returns the root of the archive that has a suite, without a slash
// at its end.
func archiveOf(ctx context.Context, suite string) (string, error) {
	security := strings.HasSuffix(suite, "-security")
	if uri := strings.TrimRight(os.Getenv(ArchiveEnv), "/"); uri != "" {
		if security {
			uri += "-security"
		}
		return uri, nil
	}
	repos, err := aptRepos(ctx)
	if err != nil {
		return "", err
	}
	return chooseArchive(repos, security)
}

// aptRepo is one source of the machine's apt.
type aptRepo struct{ uri, release, component string }

func chooseArchive(repos []aptRepo, security bool) (string, error) {
	for _, r := range repos {
		codename, isSecurity := strings.CutSuffix(strings.TrimSuffix(r.release, "/updates"), "-security")
		codename, _, _ = strings.Cut(codename, "-")
		if codenames[codename] && r.component == "main" && isSecurity == security {
			return strings.TrimRight(r.uri, "/"), nil
		}
	}
	if security { // by convention it stands beside the other
		uri, err := chooseArchive(repos, false)
		if err != nil {
			return "", err
		}
		return uri + "-security", nil
	}
	return "", ErrNoArchive
}

func aptRepos(ctx context.Context) ([]aptRepo, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, ErrNoArchive
	}
	cmd := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read the apt sources of this machine: %w", withStderr(err))
	}
	var repos []aptRepo
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) == 4 && fields[0] == "Packages" {
			repos = append(repos, aptRepo{fields[1], fields[2], fields[3]})
		}
	}
	return repos, nil
}

// withStderr adds what a program said to the error of its exit.
func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// aptHelper is apt's own downloader.
const aptHelper = "/usr/lib/apt/apt-helper"

// download gets one file of an archive.
func download(ctx context.Context, archive string, p LockedPackage, to, id string, progress Progress) error {
	if _, err := os.Stat(aptHelper); err != nil {
		return fmt.Errorf("%s is missing: downloads are made by apt (%w)", aptHelper, err)
	}
	what := id + ": download " + p.Name
	done := make(chan struct{})
	go watchDownload(to, what, p.Size, progress, done)
	err := runHelper(ctx, archive, p, to)
	close(done)
	if err == nil {
		progress.Bytes(what, p.Size, p.Size)
	}
	return err
}

func runHelper(ctx context.Context, archive string, p LockedPackage, to string) error {
	// As another user, which is apt's habit, it could not write into the cache.
	cmd := exec.CommandContext(ctx, aptHelper, "-q", "-o", "APT::Sandbox::User=root",
		"download-file", archive+"/"+p.File, to, "SHA256:"+p.SHA256)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return explainDownload(said.String(), p)
	}
	return nil
}

// explainDownload makes a sentence of what apt said.
func explainDownload(said string, p LockedPackage) error {
	var reasons []string
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "E: "); ok {
			reasons = append(reasons, text)
		}
	}
	text := strings.Join(reasons, "; ")
	if text == "" {
		text = strings.TrimSpace(said)
	}
	switch {
	case strings.Contains(text, "Hash Sum mismatch"), strings.Contains(text, "unexpected size"):
		return fmt.Errorf("%w: %s", ErrWrongDownload, text)
	case strings.Contains(text, "404"):
		return fmt.Errorf("the archive no longer has %s: `weir vm refresh` moves the lock to a newer one (%s)", p.File, text)
	}
	return fmt.Errorf("%s (is there a network?)", text)
}

// watchDownload reports how large a file has grown, until it is whole.
func watchDownload(file, what string, total int64, progress Progress, done <-chan struct{}) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			if info, err := os.Stat(file); err == nil && info.Size() < total {
				progress.Bytes(what, info.Size(), total)
			}
		}
	}
}
