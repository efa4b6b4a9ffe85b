// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionsAreOrderedAsDebianDoes(t *testing.T) {
	for _, test := range []struct {
		older, newer string
	}{
		{"5.10.9-1", "5.10.262-1"},
		{"6.18.15-1~bpo13+1", "6.18.15-1"},
		{"6.1.192-2", "6.1.192-10"},
		{"6.1~rc1-1", "6.1-1"},
		{"6.1", "6.1+deb13"},
		{"9.0-1", "1:1.0-1"},
		{"1.0a", "1.0+"},
		{"1.0", "1.0-1"},
	} {
		t.Run(test.older+" is older than "+test.newer, func(t *testing.T) {
			require.Negative(t, compareVersions(test.older, test.newer))
			require.Positive(t, compareVersions(test.newer, test.older))
			require.Zero(t, compareVersions(test.newer, test.newer))
		})
	}
	require.Zero(t, compareVersions("1.01", "1.1"))
}

func FuzzVersions(f *testing.F) {
	f.Add("6.18.15-1~bpo13+1", "1:6.18.15-1")
	f.Add("", "~")
	f.Fuzz(func(t *testing.T, a, b string) {
		require.Equal(t, compareVersions(a, b), -compareVersions(b, a))
		require.Zero(t, compareVersions(a, a))
	})
}

func TestTheArchiveIsFoundInTheSourcesOfApt(t *testing.T) {
	debian := aptRepo{"http://mirror.test/debian/", "bookworm", "main"}
	security := aptRepo{"http://mirror.test/security/", "bookworm-security", "main"}
	for _, test := range []struct {
		name     string
		repos    []aptRepo
		security bool
		want     string
	}{
		{"the main archive", []aptRepo{{"http://other.test/x", "nodistro", "main"}, security, debian}, false, "http://mirror.test/debian"},
		{"the security archive", []aptRepo{debian, security}, true, "http://mirror.test/security"},
		{"the security archive is beside the other", []aptRepo{debian}, true, "http://mirror.test/debian-security"},
		{"only contrib does not count", []aptRepo{{"http://mirror.test/x", "bookworm", "contrib"}}, false, ""},
		{"another distribution", []aptRepo{{"http://mirror.test/ubuntu", "noble", "main"}}, true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := chooseArchive(test.repos, test.security)
			if test.want == "" {
				require.ErrorIs(t, err, ErrNoArchive)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestAPackageOfTheListsIsRead(t *testing.T) {
	p, version, err := parsePackage([]byte("Package: a\nVersion: 1-1\nSize: 12\nFilename: pool/a.deb\nSHA256: ab\nDescription: x\n Size: 99\n\nPackage: a\nVersion: 0-1\n"))
	require.NoError(t, err)
	require.Equal(t, "1-1", version)
	require.Equal(t, LockedPackage{Name: "a", File: "pool/a.deb", Size: 12, SHA256: "ab"}, p)
	_, _, err = parsePackage(nil)
	require.Error(t, err)
}
