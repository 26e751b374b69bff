// tessera_fsck runs Tessera's own fsck over a log, with the exit status and the deadline that its command line lacks.
//
//	tessera_fsck -vkey VKEY [-key KEY] [-deadline 60s] DIRECTORY|URL
//
// Exit status 0: every tile and entry leads to the signed root. 1: something does not, or fsck got stuck.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
)

// With fewer workers than tiles that do not match, fsck waits for ever: hence so many, and a deadline besides.
const workers = 64

func main() {
	vkey := flag.String("vkey", "", "the log's verifier key")
	key := flag.String("key", "", "an API key, where entries are not public")
	deadline := flag.Duration("deadline", time.Minute, "when to call it stuck")
	flag.Parse()
	if flag.NArg() != 1 || *vkey == "" {
		flag.Usage()
		os.Exit(2)
	}
	checked := make(chan error, 1)
	go func() { checked <- check(flag.Arg(0), *vkey, *key) }()
	var err error
	select {
	case err = <-checked:
	case <-time.After(*deadline):
		err = fmt.Errorf("fsck is stuck after %v", *deadline)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL", err)
		os.Exit(1)
	}
	fmt.Println("OK")
}

func check(source, vkey, key string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	fetcher, err := fetch(source, key)
	if err != nil {
		return err
	}
	return fsck.New(verifier.Name(), verifier, fetcher, hashes, fsck.Opts{N: workers}).Check(context.Background())
}

func fetch(source, key string) (fsck.Fetcher, error) {
	if !strings.HasPrefix(source, "http") {
		return &client.FileFetcher{Root: source}, nil
	}
	root, err := url.Parse(source + "/")
	if err != nil {
		return nil, err
	}
	fetcher, err := client.NewHTTPFetcher(root, &http.Client{Timeout: 20 * time.Second})
	if err == nil && key != "" {
		fetcher.SetAuthorizationHeader("Bearer " + key)
	}
	return fetcher, err
}

// hashes returns the leaf hashes of an entry bundle.
func hashes(bundle []byte) ([][]byte, error) {
	entries := &api.EntryBundle{}
	if err := entries.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	found := make([][]byte, 0, len(entries.Entries))
	for _, entry := range entries.Entries {
		found = append(found, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return found, nil
}
