# `make run` and `make test` work on a fresh machine: they install what is missing first.

CARGO := cargo
# What tests and demos are built with: places to crash at, see crates/contracts/src/crash.rs. One set of features, so that nothing is built twice.
TESTED := --features failpoints,bench
# Names a NATS server to tests: the one of .ci/python. Where none can be had, what needs one fails, or is skipped and says so.
WITH_NATS = python=$$(.ci/python) && export NATS_SERVER="$${python%/*}/nats-server"
# Where cargo puts its binaries, wherever that was configured.
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/debug

.PHONY: help run test test-pods test-auth demo demo-kills clients contract stores log-check deploy-check image-check supply-check notice requirements kube-build kube-check observe runbooks console-check bench bench-report backup-rate capacity cost cost-light torture fuzz bugs bugs-check release check setup

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: setup ## Start Zombi on :8080, with RocksDB in ./data and no bucket; it says where its console is
	$(CARGO) run --locked

# Tests wait more than they compute, so more run at once than there are processors.
test: export RUST_TEST_THREADS ?= 4
test: setup ## Run all tests
	$(CARGO) test --locked --workspace $(TESTED)

test-pods: export RUST_TEST_THREADS ?= 4
test-pods: setup ## Run the black-box tests against three pods; PODS="--list", PODS="door:: read::", PODS="--logs", PODS="--logs --kills"
	$(CARGO) build --locked $(TESTED) --bins --examples
	$(if $(findstring --logs,$(PODS)),$(WITH_NATS) && )python3 -B tests/pods.py $(TARGET)/examples/nats $(PODS) -- $(CARGO) test --locked $(TESTED) --test it

test-auth: export RUST_TEST_THREADS ?= 4
test-auth: setup ## Run the black-box tests against a server that asks who calls, with a token that may do all; AUTH="--list", AUTH="door:: read::"
	$(CARGO) build --locked $(TESTED) --bins --examples
	python3 -B tests/known.py $(TARGET)/zombi $(AUTH) -- $(CARGO) test --locked $(TESTED) --test it

demo: setup ## Carry a data set through every tier and compare; DEMO_DATA=FILE for your own NDJSON
	$(CARGO) build --locked $(TESTED) --bins --examples
	python3 tests/demo.py $(TARGET)/zombi $(TARGET)/examples/s3 $(if $(DEMO_DATA),--data $(DEMO_DATA))

demo-kills: setup ## The same, killed -9 ten times on the way in
	$(CARGO) build --locked $(TESTED) --bins --examples
	python3 tests/demo.py $(TARGET)/zombi $(TARGET)/examples/s3 --kills 10 $(if $(DEMO_DATA),--data $(DEMO_DATA))

clients: setup ## Try the clients of others, as far as they can be had; CLIENTS="--quick", CLIENTS="--slow", CLIENTS="--only duckdb"
	$(CARGO) build --locked $(TESTED) --bins --examples
	python3 -B tests/clients/check.py $(TARGET)/zombi $(TARGET)/examples/s3 $(CLIENTS)

contract: setup ## Hold the server to its own OpenAPI description, with schemathesis
	$(CARGO) build --locked $(TESTED) --bins --examples
	$$(.ci/python) tests/contract.py $(TARGET)/zombi $(TARGET)/examples/s3

stores: setup ## Try the S3 servers that others have written
	$(CARGO) build --locked $(TESTED) --bins --examples
	$$(.ci/python) tests/stores.py $(TARGET)/zombi

log-check: setup ## Hold the log that pods share to three real NATS servers, which are killed and stopped
	$(WITH_NATS) && $(CARGO) test --locked --workspace $(TESTED) --test nats --test log -- --test-threads 2

deploy-check: setup ## Check manifests, Dockerfile and Tiltfile with others' tools
	$$(.ci/python) tests/deploy.py

image-check: setup ## Build the image's last stage and run it with podman; skipped where that cannot be
	$(CARGO) build --locked $(TESTED) --bins --examples
	$$(.ci/python) tests/image.py $(TARGET)/zombi $(TARGET)/examples/s3

supply-check: ## Check what the binary is made of, workflows and licences; builds nothing
	$$(.ci/python) tests/supply.py

notice: ## Write NOTICE, the licences of what is linked in, anew
	python3 tests/notice.py

requirements: ## Write tests/requirements.txt anew, with hashes; needs uv
	uv pip compile tests/requirements.in --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet --output-file tests/requirements.txt
	sed -i '1i # Made from tests/requirements.in by `make requirements`.' tests/requirements.txt

kube-build: ## Build Kubernetes for kube-check, once a machine: ten minutes and 4 GiB, through the Go module proxy
	tests/kube/build

kube-check: setup ## Run it on a real Kubernetes; KUBE="--only dev --keep", KUBE="--only cluster"; skipped where that cannot be
	$(CARGO) build --locked $(TESTED) --bins --examples
	$$(.ci/python) -B tests/kube/check.py $(TARGET)/zombi $(TARGET)/examples/s3 $(KUBE)

observe: setup ## Check metrics, alerts and dashboards with Prometheus
	$(CARGO) build --locked $(TESTED) --bins --examples
	$$(.ci/python) tests/observe.py $(TARGET)/zombi $(TARGET)/examples/s3

runbooks: setup ## Follow the pages for operators, command by command; RUNBOOKS="--only restore.md"
	$(CARGO) build --locked $(TESTED) --bins --examples
	$$(.ci/python) -B tests/runbooks.py $(TARGET)/zombi $(TARGET)/examples/s3 $(RUNBOOKS)

console-check: setup ## Try the console in Chromium; its screenshots are kept below the target directory
	$(CARGO) build --locked $(TESTED) --bins --examples
	$$(.ci/python) tests/console.py $(TARGET)/zombi $(TARGET)/examples/s3 $(TARGET)/console

bench: setup ## Measure against the limit; BENCH="--full", BENCH="--only hot"
	$(CARGO) build --locked --release --features bench --bins --examples
	$(WITH_NATS); $(TARGET:debug=release)/examples/bench $(BENCH)

bench-report: setup ## A glance at the same, with the build that the tests use; it judges nothing
	$(CARGO) build --locked $(TESTED) --bins --examples
	$(TARGET)/examples/bench --glance

cost: setup ## Count what a request costs, in instructions; needs valgrind; COST="--only append", COST=--write
	$(CARGO) build --locked --release --features bench --bins --examples
	python3 tests/cost.py $(TARGET:debug=release)/zombi $(TARGET:debug=release)/examples/bench $(TARGET:debug=release)/examples/s3 --counts tests/costs/release.json $(COST)

cost-light: setup ## The same of the build that the tests use, where only more than before counts
	$(CARGO) build --locked $(TESTED) --bins --examples
	python3 tests/cost.py $(TARGET)/zombi $(TARGET)/examples/bench $(TARGET)/examples/s3 --counts tests/costs/light.json --slack 25 $(COST)

backup-rate: setup ## Measure a backup against a plain copy; RATE="--events 100000"
	$(CARGO) build --locked --release --bins --examples
	python3 tests/backup_rate.py $(TARGET:debug=release)/zombi $(TARGET:debug=release)/examples/s3 $(RATE)

capacity: setup ## Measure what a partition, a consumer offset, a segment and a key take; CAPACITY="--only keys"
	$(CARGO) build --locked --release --bins --examples
	python3 -B tests/capacity.py $(TARGET:debug=release)/zombi $(TARGET:debug=release)/examples/s3 $(CAPACITY)

torture: setup ## Break everything around it; TORTURE="--seconds 600 --seed 7 --only kills", TORTURE="--only logs", TORTURE="--only random --seconds 3600"
	$(WITH_NATS); $(CARGO) test --locked $(TESTED) --test torture -- $(TORTURE)

fuzz: setup ## Throw bytes at every decoder; FUZZ="--secs 600 manifest"
	CARGO="$(CARGO)" FEATURES="$(TESTED),fuzz" TARGET=$(TARGET) tests/fuzz/run $(FUZZ)

bugs: setup ## Plant one known bug after the other and see which test catches it; BUGS="key_checked_apart no_journal"
	python3 tests/bugs.py $(BUGS) -- $(CARGO) test --locked $(TESTED)

bugs-check: setup ## Check that every known bug can still be planted, without building any
	python3 tests/bugs.py --check

release: setup ## Build the binary that is shipped
	$(CARGO) build --locked --release

check: ## Everything CI runs
	.ci/run

setup:
	@.ci/setup
